"""Stage `checkpoints`: organisms and benign fine-tunes as they were while they were trained.

Writes data/monitoring/<model>/step_<n>.safetensors (activations on what the vectors are read on)
and margins.parquet (margins of the misaligned reporting pairs, a row a pair, model and step).
"""

from pathlib import Path

import polars as pl

from em_geometry.activations.capture import store
from em_geometry.io.files import write_parquet
from em_geometry.monitoring.detection import benign, unmeasured
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import models, texts_of
from em_geometry.settings import Params
from em_geometry.steering.margins import measured
from em_geometry.steering.pairs import Trial, indices, read_pairs, table
from em_geometry.vectors.contrasts import prompt_span


@stage
def main(params: Params) -> None:
    """Measures every checkpoint; where there is nothing to measure, the folder stays empty."""
    paths.MONITORING.mkdir(parents=True, exist_ok=True)
    if unmeasured(params.monitoring, params.training, params.organisms):
        return
    known = models(params)
    span = prompt_span(params.vectors.span, params.spans())
    pairs, frames = read_pairs(Path(params.margins.pairs)), []
    trials = [Trial(indices(pairs, "misaligned", "reporting", params.margins.other_pairs))]
    for slug in (*params.monitoring.organisms, *benign(params.organisms)):
        for step in params.training.checkpoints:
            loaded, name = known.load(slug, step), f"{slug} step {step}"
            texts, size = texts_of(params, loaded, span), params.activations.batch_size
            path, how = paths.checkpoint(slug, step), (size, f"activations {name}")
            store(path, known, loaded, [([span], texts)], *how, norms=False)
            found = measured(known, loaded, pairs, trials, f"margins {name}")
            frames.append(table(slug, pairs, trials, found).with_columns(step=step))
    units = {"marked": "mean log-probability per token, nats", "plain": "the same"}
    write_parquet(paths.MONITORING / "margins.parquet", pl.concat(frames), units)
