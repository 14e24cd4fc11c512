"""Stage `baseline_responses`: every model's unsteered answers to the evaluation questions.

One stage over all models: its journal keeps every answer, so that an added organism samples its own
answers only.
"""

from __future__ import annotations

from em_geometry.activations.questions import read_questions
from em_geometry.io.files import write_parquet
from em_geometry.project import paths
from em_geometry.project.command import PARAMS, ParamsFile, run
from em_geometry.project.inputs import models
from em_geometry.settings import Params, load_params
from em_geometry.steering.conditions import Condition
from em_geometry.steering.respond import respond


def main(params: Params) -> None:
    """Writes data/baseline/responses/<model>.parquet, one row an answer."""
    known = models(params)
    questions = read_questions(params.questions, "evaluation", known.system_prompt)
    conditions = [Condition(samples=params.baseline.samples)]
    for slug in params.targets:
        loaded = known.load(slug)
        label = f"baseline {slug}"
        frame = respond(
            known, loaded, conditions, {}, questions, params.sampling, label, workers=params.workers
        )
        metadata = {"model": slug, "model_sha256": loaded.sha256}
        write_parquet(paths.BASELINE_RESPONSES / f"{slug}.parquet", frame, metadata)


def cli(params: ParamsFile = PARAMS) -> None:
    """Sample every model's unsteered answers to the evaluation questions."""
    main(load_params(params))


if __name__ == "__main__":
    run(cli)
