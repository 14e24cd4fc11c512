"""Stage `activations`: a model's residual stream on the neutral and harmful prompts.

Writes data/activations/<model>.safetensors (spans and their norms) and <model>.parquet (one row a
prompt, in the same order).
"""

from em_geometry.activations.capture import store
from em_geometry.activations.prompts import prompt_texts, read_prompts
from em_geometry.io.files import write_parquet
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import models
from em_geometry.settings import Params


@stage
def main(params: Params, *slugs: str) -> None:
    """Captures the activations of these targets, of all where none is named."""
    known, settings = models(params), params.activations
    prompts = read_prompts(params.prompts)
    for slug in [*map(params.target, slugs)] or params.targets:
        loaded = known.load(slug)
        texts, rows = prompt_texts(prompts, settings.spans, loaded.tokenizer, known.system_prompt)
        path, label = paths.ACTIVATIONS / f"{slug}.safetensors", f"activations {slug}"
        how = settings.spans, settings.batch_size, label
        metadata = store(path, known, loaded, texts, *how, workers=params.workers)
        write_parquet(path.with_suffix(".parquet"), rows, metadata)
