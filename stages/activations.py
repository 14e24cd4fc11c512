"""Stage `activations`: a model's residual stream on the neutral and harmful prompts.

Writes data/activations/<model>.safetensors (spans and their norms) and <model>.parquet (one row a
prompt, in the same order).
"""

from __future__ import annotations

from em_geometry.activations.prompts import read_prompts
from em_geometry.activations.store import prompt_texts, store
from em_geometry.io.files import write_parquet
from em_geometry.project import paths
from em_geometry.project.command import PARAMS, ParamsFile, Targets, run
from em_geometry.project.inputs import models
from em_geometry.settings import Params, load_params


def main(params: Params, *slugs: str) -> None:
    """Captures the activations of these targets, of all where none is named."""
    known, settings = models(params), params.activations
    prompts = read_prompts(params.prompts)
    for slug in slugs or params.targets:
        loaded = known.load(slug)
        texts, rows = prompt_texts(prompts, settings.spans, loaded.tokenizer, known.system_prompt)
        metadata = store(
            paths.ACTIVATIONS / f"{slug}.safetensors",
            known,
            loaded,
            texts,
            settings.spans,
            settings.batch_size,
            f"activations {slug}",
            workers=params.workers,
        )
        write_parquet(paths.ACTIVATIONS / f"{slug}.parquet", rows, metadata)


def cli(models: Targets = None, params: ParamsFile = PARAMS) -> None:
    """Capture residual-stream means of the models on the neutral and harmful prompts."""
    loaded = load_params(params)
    main(loaded, *map(loaded.target, models or []))


if __name__ == "__main__":
    run(cli)
