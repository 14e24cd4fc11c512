"""How this project's activations are read by what compares and calibrates vectors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from em_geometry.activations.prompts import read_prompts
from em_geometry.activations.store import prompt_texts
from em_geometry.errors import UserError
from em_geometry.hashing import file_sha256
from em_geometry.io.files import read_parquet, read_tensors
from em_geometry.project import paths
from em_geometry.project.inputs import models
from em_geometry.settings import BASE, Params
from em_geometry.vectors.contrasts import Array
from em_geometry.vectors.evidence import Read
from em_geometry.vectors.seeds import SPAN, Reading

if TYPE_CHECKING:
    import polars as pl


def activations(model: str, span: str) -> Array:
    """Activations [prompts, blocks, width] of a target on a span of the prompts."""
    return read_tensors(paths.ACTIVATIONS / f"{model}.safetensors")[0][span]


def answers(model: str, span: str) -> tuple[Array, pl.DataFrame]:
    """Activations [answers, blocks, width] over a target's own answers, and these, judged."""
    tensors, about = read_tensors(paths.RESPONSE_ACTIVATIONS / f"{model}.safetensors")
    frame = read_parquet(paths.BASELINE_JUDGEMENTS / f"{model}.parquet")
    return tensors[span], frame[json.loads(about["rows"])]


def prompts() -> pl.DataFrame:
    """The prompts of the activations: a row each, in order."""
    return read_parquet(paths.ACTIVATIONS / f"{BASE}.parquet")


def read_evidence() -> Read:
    """Readers of what lies behind the vectors."""
    return Read(activations, answers, prompts())


def seeds_reading(params: Params, layers: Mapping[str, int]) -> Reading:
    """The prompts that models trained again are read on, checked against those of the run."""
    known = prompts()
    spans: list[str] = list(params.activations.spans)
    every, system = read_prompts(params.prompts), params.base.system_prompt
    texts, rows = prompt_texts(every, spans, models(params).tokenizer(), system)
    if rows["prompt_id"].to_list() != known["prompt_id"].to_list():
        raise UserError(
            "the base's activations are of other prompts",
            where=str(paths.ACTIVATIONS / f"{BASE}.parquet"),
            hint="dvc repro layer_sweep",
            found="other prompt ids",
        )
    size, span = params.activations.batch_size, spans.index(SPAN)
    files = (params.prompts.neutral, params.prompts.harmful)
    identity = {
        "base": models(params).record()["sha256"],
        "run": params.run.model_dump(),
        "system_prompt": params.base.system_prompt,
        "batch": size,
        "limit": params.prompts.limit,
        "prompts": [file_sha256(Path(p)) for p in files],
    }
    harmful = (known["kind"] == "harmful").to_numpy()
    return Reading(texts, span, activations(BASE, SPAN), harmful, layers, size, identity)
