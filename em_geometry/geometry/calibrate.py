"""Stage `calibration`: intervals, nulls and power for the measured geometry.

Writes metrics/calibration.json, plots/power.csv (a line a share of common core) and
plots/nulls.csv (a line a statistic). It rests on the activations, so no model runs. Where the
contrast of answers (c) rests on answers to too few questions to draw them again, the organism-base
contrast at the same blocks is calibrated instead, and named.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from em_geometry.errors import UserError
from em_geometry.geometry.answers import MIN_QUESTIONS, Answers
from em_geometry.geometry.calibration import Measured, calibrate
from em_geometry.geometry.gram import Floats
from em_geometry.geometry.labels import misaligned_and_aligned
from em_geometry.geometry.measure import (
    ACTIVATIONS,
    SELECTED,
    base_activations,
    massive_dimensions,
)
from em_geometry.geometry.power import curves
from em_geometry.geometry.samples import Prompts, Sample
from em_geometry.io.files import read_parquet, read_tensors, write_metrics, write_text
from em_geometry.io.tables import csv_text
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.settings.params import BASE, Params, load_params

METRICS = Path("metrics/calibration.json")
RESPONSES = Path("data/response_activations")
BASELINE = Path("data/baseline/judgements")
POWER, NULLS = Path("plots/power.csv"), Path("plots/nulls.csv")
FALLBACK = "model_contrast"
PAIRED = ("prompt_contrast", "interaction")  # rows are harmful minus neutral of a pair
AGAINST = (FALLBACK, "control_contrast", "interaction")  # rows subtract another model
OF_ANSWERS = "response_contrast"


def pair_rows(kinds: Sequence[str], pairs: Sequence[str]) -> tuple[list[int], list[int]]:
    """Rows of the harmful and of the neutral prompts, pair by pair.

    Raises:
        UserError: a pair lacks one of the two, or has one twice.
    """
    sides: dict[str, dict[str, list[int]]] = {}
    for row, (kind, pair) in enumerate(zip(kinds, pairs, strict=True)):
        sides.setdefault(pair, {}).setdefault(kind, []).append(row)
    for pair, found in sides.items():
        if sorted(found) != ["harmful", "neutral"] or any(len(r) != 1 for r in found.values()):
            raise UserError(
                "a pair of prompts is not one neutral and one harmful prompt",
                where=f"{ACTIVATIONS}: pair {pair}",
                found={kind: len(rows) for kind, rows in found.items()},
                expected="one of each",
            )
    first = [found["harmful"][0] for found in sides.values()]
    return first, [found["neutral"][0] for found in sides.values()]


def read_measured(params: Params) -> tuple[Measured, str, str]:
    """What lies behind the vectors of organisms and controls, with the contrast and span."""
    _, about = read_tensors(SELECTED)
    names, controls = params.slugs("organism"), params.slugs("control")
    try:
        layers = json.loads(about["layers"])
        middle = int(np.median([layers[name] for name in names]))
        contrast, span = about["contrast"], about["span"]
    except KeyError as error:
        raise UserError(
            "the selected vectors are not those of the organisms in the params",
            where=str(SELECTED),
            found=f"no {error}",
            hint="dvc repro layer_sweep",
        ) from None
    blocks = {slug: layers.get(slug, middle) for slug in (*names, *controls)}
    spans = params.activations.spans
    prompt_span = span if span in spans else spans[0]
    base = base_activations(spans, prompt_span, middle)
    own = {name: blocks[name] for name in names}
    sample: Sample | None = answer_sample(params, span, own) if contrast == OF_ANSWERS else None
    others = np.empty((0, base.shape[-1]))  # of answers: controls give no misaligned ones
    if sample is None:
        contrast, span = contrast if contrast in (*PAIRED, *AGAINST) else FALLBACK, prompt_span
        sample = prompt_sample(params, contrast, span, own)
        if controls:
            at = {slug: blocks[slug] for slug in controls}
            others = prompt_sample(params, contrast, span, at).vectors
    massive = massive_dimensions(base, params.geometry.massive_share)
    return Measured(names, params.clusters(), sample, others, massive), contrast, span


def prompt_sample(params: Params, contrast: str, span: str, blocks: Mapping[str, int]) -> Prompts:
    """Difference rows of models at their blocks, by prompt or pair of prompts."""
    prompts = read_parquet(ACTIVATIONS / f"{BASE}.parquet")
    topics, pairs = prompts["topic"].to_list(), prompts["pair"].to_list()
    if len(set(topics)) < 2:
        raise UserError(
            "prompts of one topic cannot be resampled by topic",
            where=str(ACTIVATIONS / f"{BASE}.parquet"),
            found=f"topics: {', '.join(set(topics))}",
            expected="two or more; eight or more for useful intervals",
        )
    harmful, neutral = pair_rows(prompts["kind"].to_list(), pairs)
    paired = contrast in PAIRED

    def activations(slug: str, layer: int) -> Floats:
        tensors, _ = read_tensors(ACTIVATIONS / f"{slug}.safetensors")
        return np.asarray(tensors[span][:, layer], dtype=np.float64)

    def rows_of(slug: str, layer: int) -> Floats:
        rows = activations(slug, layer)
        if contrast in AGAINST:
            rows = rows - activations(_reference(params, contrast, slug), layer)
        return rows[harmful] - rows[neutral] if paired else rows

    rows = np.stack([rows_of(slug, layer) for slug, layer in blocks.items()])
    return Prompts(rows, [topics[i] for i in harmful] if paired else topics)


def answer_sample(params: Params, span: str, blocks: Mapping[str, int]) -> Answers | None:
    """Labelled answers of models at their blocks; None where they are of too few questions."""
    answers, labels, questions = [], [], []
    for slug, layer in blocks.items():
        tensors, about = read_tensors(RESPONSES / f"{slug}.safetensors")
        frame = read_parquet(BASELINE / f"{slug}.parquet")[json.loads(about["rows"])]
        bad, good = misaligned_and_aligned(frame, params.judging)
        used = bad | good
        answers.append(tensors[span][used, layer].astype(np.float64))
        labels.append(bad[used])
        questions.append(np.array(frame["question_id"].to_list())[used].tolist())
    found = Answers(answers, labels, questions)
    return found if found.questions_of_fewest >= MIN_QUESTIONS else None


def _reference(params: Params, contrast: str, slug: str) -> str:
    """What a row subtracts: the base, or the first control of the same lab's recipe."""
    if contrast != "control_contrast" or params.organisms[slug].role != "organism":
        return BASE
    lab = params.organisms[slug].lab
    for control in params.slugs("control"):
        if params.organisms[control].lab == lab:
            return control
    raise UserError(
        "an organism has no control of its own recipe to subtract",
        where="params.yaml: vectors.contrast",
        found=f"{slug} of {lab}",
        expected="a control of the same lab, or another contrast",
    )


def main(params: Params) -> None:
    """Calibrates the geometry of the selected vectors."""
    data, contrast, span = read_measured(params)
    found = calibrate(data, params.geometry, params.run.seed)
    write_metrics(METRICS, {"contrast": contrast, "span": span} | found.metrics)
    write_text(POWER, csv_text(*curves(found.sweep)))
    write_text(NULLS, csv_text(*found.nulls))


def cli(params: ParamsFile = PARAMS) -> None:
    """Calibrate the geometry: intervals, nulls and power."""
    main(load_params(params))
