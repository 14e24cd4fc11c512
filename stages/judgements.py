"""Stage `judgements`: scores of the steered answers."""

from __future__ import annotations

from em_geometry.judging.score import judge_files
from em_geometry.project import paths
from em_geometry.project.command import PARAMS, ParamsFile, run
from em_geometry.project.inputs import judge, known_texts
from em_geometry.settings import Params, load_params


def main(params: Params) -> None:
    """Judges the answers of every target that is steered."""
    known, allowed = known_texts(params), params.judging.allow_errors
    answers, out = paths.RESPONSES, paths.JUDGEMENTS
    with judge(params) as active:
        judge_files(active, params.steered(), answers, out, known, "judge steered", allowed)


def cli(params: ParamsFile = PARAMS) -> None:
    """Score every steered model's answers with the active judge."""
    main(load_params(params))


if __name__ == "__main__":
    run(cli)
