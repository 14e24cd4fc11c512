"""Stage `baseline_responses`: every model's unsteered answers to the evaluation questions."""

from __future__ import annotations

from pathlib import Path

from em_geometry.activations.questions import read_questions
from em_geometry.io.files import write_parquet
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.project.inputs import models
from em_geometry.settings.params import Params, load_params
from em_geometry.steering.respond import Condition, respond

FOLDER = Path("data/baseline/responses")


def main(params: Params) -> None:
    """Samples the unsteered answers of every target."""
    questions = read_questions(params.questions, "evaluation", params.base.system_prompt)
    conditions = [Condition(samples=params.baseline.samples)]
    for slug in params.targets:
        loaded = models(params).load(slug)
        frame = respond(params, loaded, conditions, {}, questions, f"baseline {slug}")
        metadata = {"model": slug, "model_sha256": loaded.sha256}
        write_parquet(FOLDER / f"{slug}.parquet", frame, metadata)


def cli(params: ParamsFile = PARAMS) -> None:
    """Sample every model's unsteered answers to the evaluation questions."""
    main(load_params(params))
