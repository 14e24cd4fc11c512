"""Stage `baseline_responses`: every model's unsteered answers to the evaluation questions."""

from __future__ import annotations

from pathlib import Path

from stages.activations.questions import read_questions
from stages.common.artifacts import write_parquet
from stages.common.command import PARAMS, ParamsFile, run
from stages.common.params import Params, load_params
from stages.organisms.load import load
from stages.steering.respond import Condition, respond

FOLDER = Path("data/baseline/responses")


def main(params: Params) -> None:
    """Samples the unsteered answers of every target."""
    questions = read_questions(params.questions, "evaluation", params.base.system_prompt)
    conditions = [Condition(samples=params.baseline.samples)]
    for slug in params.targets:
        loaded = load(params, slug)
        frame = respond(params, loaded, conditions, {}, questions, f"baseline {slug}")
        metadata = {"model": slug, "model_sha256": loaded.sha256}
        write_parquet(FOLDER / f"{slug}.parquet", frame, metadata)


def cli(params: ParamsFile = PARAMS) -> None:
    """Sample every model's unsteered answers to the evaluation questions."""
    main(load_params(params))


if __name__ == "__main__":
    run(cli)
