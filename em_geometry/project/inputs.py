"""What stages take in: the objects that the params name, and the artifacts of earlier stages."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from em_geometry.activations.prompts import (
    Question,
    Set,
    prompt_texts,
    read_prompts,
    read_questions,
)
from em_geometry.errors import UserError
from em_geometry.geometry.calibration import Evidence
from em_geometry.hashing import file_sha256
from em_geometry.io.files import read_parquet, read_tensors
from em_geometry.judging.judge import Judge
from em_geometry.judging.score import Ngrams, active_judge, training_ngrams
from em_geometry.models.load import Models
from em_geometry.project import paths
from em_geometry.settings import BASE, Params
from em_geometry.steering.conditions import Selected, read_selected
from em_geometry.vectors.contrasts import Array, VectorTable, read_vector_table
from em_geometry.vectors.evidence import evidence
from em_geometry.vectors.seeds import SPAN, Reading

if TYPE_CHECKING:
    import polars as pl


def models(params: Params) -> Models:
    """Where this project's models come from, and how they are loaded."""
    return Models(params.run, params.base, paths.BASE_MODEL, params.organisms, paths.ADAPTERS)


def judge(params: Params) -> AbstractContextManager[Judge]:
    """The judge that the params name, for the time of a `with`."""
    return active_judge(params.judging, models(params), paths.JUDGE_MODEL, params.workers)


def known_texts(params: Params) -> Ngrams:
    """N-grams of all training texts, by which answers are checked for recital."""
    return training_ngrams(params.organisms.values())


def questions(params: Params, which: Set) -> list[Question]:
    """The questions of a set, with the run's system prompt."""
    return read_questions(params.questions, which, params.base.system_prompt)


def selected(params: Params) -> dict[str, Selected]:
    """The vectors that the sweep chose, one for every organism at least."""
    return read_selected(paths.SELECTED, params.slugs("organism"))


def vector_table() -> VectorTable:
    """Every contrast of every model at every block."""
    return read_vector_table(paths.VECTORS, paths.VECTOR_INDEX)


def activations(model: str, span: str) -> Array:
    """Activations [prompts, blocks, width] of a target on a span of the prompts."""
    return read_tensors(paths.ACTIVATIONS / f"{model}.safetensors")[0][span]


def prompts(model: str = BASE) -> pl.DataFrame:
    """The prompts of a target's activations: a row each, in order."""
    return read_parquet(paths.ACTIVATIONS / f"{model}.parquet")


def evidence_of(params: Params) -> tuple[Evidence, str, str]:
    """What lies behind the selected vectors, with their contrast and span."""
    spans, share = params.activations.spans, params.geometry.massive_share
    return evidence(activations, prompts(), selected(params), params.organisms, spans, share)


def seeds_reading(params: Params, layers: Mapping[str, int]) -> Reading:
    """The prompts that models trained again are read on, checked against those of the run."""
    known, every = prompts(), read_prompts(params.prompts)
    spans: list[str] = list(params.activations.spans)
    system, size = params.base.system_prompt, params.activations.batch_size
    texts, rows = prompt_texts(every, spans, models(params).tokenizer(), system)
    if rows["prompt_id"].to_list() != known["prompt_id"].to_list():
        raise UserError(
            "the base's activations are of other prompts",
            where=str(paths.ACTIVATIONS / f"{BASE}.parquet"),
            hint="dvc repro layer_sweep",
            found="other prompt ids",
        )
    files = (params.prompts.neutral, params.prompts.harmful)
    identity = {
        "base": models(params).record()["sha256"],
        "run": params.run.model_dump(),
        "system_prompt": system,
        "batch": size,
        "limit": params.prompts.limit,
        "prompts": [file_sha256(Path(p)) for p in files],
    }
    base = activations(BASE, SPAN)
    return Reading(texts, spans.index(SPAN), base, layers, size, identity)
