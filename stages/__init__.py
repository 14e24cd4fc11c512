"""A file for each stage of dvc.yaml: params and artifacts in, artifacts and metrics out."""

import gc

# Libraries make millions of objects that stay: looking for garbage among them at the usual pace
# takes an eighth of a stage's start, of which a run has sixty.
gc.set_threshold(100_000, 50, 50)
