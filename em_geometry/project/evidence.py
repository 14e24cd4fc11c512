"""What lies behind the vectors of this project's run, read for its calibration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from em_geometry.activations.prompts import read_prompts
from em_geometry.activations.store import prompt_texts
from em_geometry.errors import UserError
from em_geometry.geometry.calibration import Evidence
from em_geometry.geometry.choices import massive_dimensions
from em_geometry.geometry.samples import PromptRows, Sample
from em_geometry.hashing import file_sha256
from em_geometry.io.files import read_parquet, read_tensors
from em_geometry.project import paths
from em_geometry.project.inputs import models
from em_geometry.settings.params import BASE, Params
from em_geometry.steering.selected import read_selected
from em_geometry.vectors.contrasts import Array, prompt_span, recipe_controls
from em_geometry.vectors.evidence import (
    FALLBACK,
    OF_ANSWERS,
    OF_PROMPTS,
    answer_rows,
    prompt_rows,
)
from em_geometry.vectors.seeds import SPAN, Reading


def activations(model: str, span: str) -> Array:
    """Activations [prompts, blocks, width] of a target on a span of the prompts."""
    return read_tensors(paths.ACTIVATIONS / f"{model}.safetensors")[0][span]


def prompt_evidence(
    params: Params, contrast: str, span: str, blocks: Mapping[str, int]
) -> PromptRows:
    """Difference rows of models at their blocks, by prompt or pair of prompts."""

    def at(model: str, block: int) -> Array:
        return activations(model, span)[:, block]

    prompts = read_parquet(paths.ACTIVATIONS / f"{BASE}.parquet")
    known = recipe_controls(params.organisms)
    controls = {slug: known[slug] for slug in params.slugs("organism")}
    return prompt_rows(contrast, at, blocks, prompts, controls)


def evidence(params: Params) -> tuple[Evidence, str, str]:
    """What lies behind the vectors of organisms and controls, with the contrast and span.

    Where the contrast of answers (c) rests on answers to too few questions to draw them again, the
    organism-base contrast at the same blocks is calibrated instead, and named.
    """
    names, controls = params.slugs("organism"), params.slugs("control")
    selected = read_selected(paths.SELECTED, names)
    own = {name: selected[name].layer for name in names}
    middle = int(np.median(list(own.values())))
    contrast, span = selected[names[0]].contrast, selected[names[0]].span
    of_prompts = prompt_span(span, params.activations.spans)
    sample: Sample | None = None
    others = np.empty((0, selected[names[0]].vector.size))  # controls give no misaligned answers
    if contrast == OF_ANSWERS:
        answers = {}
        for slug, block in own.items():
            tensors, about = read_tensors(paths.RESPONSE_ACTIVATIONS / f"{slug}.safetensors")
            frame = read_parquet(paths.BASELINE_JUDGEMENTS / f"{slug}.parquet")
            answers[slug] = tensors[span][:, block], frame[json.loads(about["rows"])]
        sample = answer_rows(answers, params.vectors)
    if sample is None:
        contrast, span = contrast if contrast in OF_PROMPTS else FALLBACK, of_prompts
        sample = prompt_evidence(params, contrast, span, own)
        if controls:
            at = dict.fromkeys(controls, middle)
            others = prompt_evidence(params, contrast, span, at).vectors
    base = activations(BASE, of_prompts)[:, middle]
    massive = massive_dimensions(base.astype(np.float64), params.geometry.massive_share)
    return Evidence(names, params.clusters(), sample, others, massive), contrast, span


def seeds_reading(params: Params, layers: Mapping[str, int]) -> Reading:
    """The prompts that models trained again are read on, checked against those of the run."""
    known = read_parquet(paths.ACTIVATIONS / f"{BASE}.parquet")
    spans: list[str] = list(params.activations.spans)
    prompts, system = read_prompts(params.prompts), params.base.system_prompt
    texts, rows = prompt_texts(prompts, spans, models(params).tokenizer(), system)
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
