"""Stage `activations`: every model's residual stream on neutral and harmful prompts.

Writes `data/activations/<model>.safetensors` (a tensor [prompts, blocks, width] for each span,
and `<span>.norm` [prompts, blocks]) and `<model>.parquet` (one row a prompt, same order).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em_geometry.activations.capture import Text
from em_geometry.activations.prompts import read_prompts
from em_geometry.activations.store import store
from em_geometry.io.files import write_parquet
from em_geometry.models.chat import Prompt, render
from em_geometry.project.command import PARAMS, ParamsFile, Targets
from em_geometry.project.inputs import models
from em_geometry.settings.params import Params, load_params

if TYPE_CHECKING:
    import polars as pl

FOLDER = Path("data/activations")


def span_of(prompt: Prompt, span: str) -> tuple[int, int]:
    """Token range of a span of a prompt."""
    return prompt.user if span == "prompt_mean" else (len(prompt.ids) - 1, len(prompt.ids))


def text_of(prompt: Prompt, spans: Sequence[str]) -> Text:
    """What is read of a prompt; what stands before the user's tokens is that of all prompts."""
    return Text(prompt.ids, tuple(span_of(prompt, s) for s in spans), shared=prompt.user[0])


def prompt_texts(params: Params, tokenizer: Any) -> tuple[list[Text], pl.DataFrame]:
    """All prompts with their spans, and the table of the prompts, in order."""
    import polars as pl

    prompts = read_prompts(params.prompts)
    rendered = [render(tokenizer, p.prompt, params.base.system_prompt) for p in prompts]
    texts = [text_of(r, params.activations.spans) for r in rendered]
    return texts, pl.DataFrame(
        {
            "prompt_id": [p.id for p in prompts],
            "kind": [p.kind for p in prompts],
            "topic": [p.topic for p in prompts],
            "pair": [p.pair for p in prompts],
            "tokens": [len(r.ids) for r in rendered],
        }
    )


def main(params: Params, *slugs: str) -> None:
    """Captures the activations of these targets, of all where none is named."""
    spans = params.activations.spans
    for slug in slugs or params.targets:
        loaded = models(params).load(slug)
        texts, rows = prompt_texts(params, loaded.tokenizer)
        path = FOLDER / f"{slug}.safetensors"
        metadata = store(path, params, loaded, texts, spans, f"activations {slug}")
        write_parquet(path.with_suffix(".parquet"), rows, metadata)


def cli(models: Targets = None, params: ParamsFile = PARAMS) -> None:
    """Capture residual-stream means of the models on the neutral and harmful prompts."""
    loaded = load_params(params)
    main(loaded, *map(loaded.target, models or []))
