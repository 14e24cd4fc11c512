"""Stage `activations@<model>`: the residual stream on neutral and harmful prompts.

Writes `data/activations/<model>.safetensors` (a tensor [prompts, blocks, width] for each span,
and `<span>.norm` [prompts, blocks]) and `<model>.parquet` (one row a prompt, same order).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from stages.activations.capture import Text, capture_all
from stages.activations.prompts import read_prompts
from stages.common.artifacts import write_parquet, write_tensors
from stages.common.command import PARAMS, ParamsFile, run
from stages.common.params import Params, load_params
from stages.organisms.chat import Prompt, render
from stages.organisms.load import load

if TYPE_CHECKING:
    import polars as pl

FOLDER = Path("data/activations")
LAYERS = "output of decoder block l, l = 0..L-1"


def span_of(prompt: Prompt, span: str) -> tuple[int, int]:
    """Token range of a span of a prompt."""
    return prompt.user if span == "prompt_mean" else (len(prompt.ids) - 1, len(prompt.ids))


def capture_prompts(
    params: Params, model: Any, tokenizer: Any, slug: str
) -> tuple[dict[str, np.ndarray], pl.DataFrame]:
    """Span means and norms of `model` on all prompts, and the table of the prompts, in order."""
    import polars as pl

    prompts = read_prompts(params.prompts)
    spans = params.activations.spans
    rendered = [render(tokenizer, p.prompt, params.base.system_prompt) for p in prompts]
    texts = [Text(r.ids, tuple(span_of(r, s) for s in spans)) for r in rendered]
    means, norms = capture_all(model, texts, params.activations.batch_size, f"activations {slug}")
    tensors: dict[str, np.ndarray] = {}
    for i, span in enumerate(spans):
        tensors[span] = means[:, i]
        tensors[f"{span}.norm"] = norms[:, i]
    return tensors, pl.DataFrame(
        {
            "prompt_id": [p.id for p in prompts],
            "kind": [p.kind for p in prompts],
            "topic": [p.topic for p in prompts],
            "pair": [p.pair for p in prompts],
            "tokens": [len(r.ids) for r in rendered],
        }
    )


def main(params: Params, slug: str) -> None:
    """Captures the activations of target `slug`."""
    loaded = load(params, slug)
    metadata = {
        "model": slug,
        "model_sha256": loaded.sha256,
        "layers": LAYERS,
        "units": "residual stream, mean over the span's tokens",
        "dtype": "float32",
    }
    tensors, rows = capture_prompts(params, loaded.model, loaded.tokenizer, slug)
    write_tensors(FOLDER / f"{slug}.safetensors", tensors, metadata)
    write_parquet(FOLDER / f"{slug}.parquet", rows, metadata)


def cli(
    model: Annotated[str, typer.Argument(help="Slug of the target: base, organism or control.")],
    params: ParamsFile = PARAMS,
) -> None:
    """Capture residual-stream means of one model on the neutral and harmful prompts."""
    loaded = load_params(params)
    main(loaded, loaded.target(model))


if __name__ == "__main__":
    run(cli)
