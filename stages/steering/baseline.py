"""Stage `baseline_responses@<model>`: unsteered answers to the evaluation questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages.activations.questions import read_questions
from stages.common.artifacts import write_parquet
from stages.common.command import PARAMS, ParamsFile, run
from stages.common.params import Params, load_params
from stages.organisms.load import load
from stages.steering.respond import Condition, respond

FOLDER = Path("data/baseline/responses")


def main(params: Params, slug: str) -> None:
    """Samples the unsteered answers of target `slug`."""
    questions = read_questions(params.questions, "evaluation", params.base.system_prompt)
    loaded = load(params, slug)
    conditions = [Condition(samples=params.baseline.samples)]
    frame = respond(params, loaded, conditions, {}, questions, f"baseline {slug}")
    metadata = {"model": slug, "model_sha256": loaded.sha256}
    write_parquet(FOLDER / f"{slug}.parquet", frame, metadata)


def cli(
    model: Annotated[str, typer.Argument(help="Slug of the target: base, organism or control.")],
    params: ParamsFile = PARAMS,
) -> None:
    """Sample one model's unsteered answers to the evaluation questions."""
    loaded = load_params(params)
    main(loaded, loaded.target(model))


if __name__ == "__main__":
    run(cli)
