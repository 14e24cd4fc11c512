"""Stage `baseline_judgements`: scores of the unsteered answers."""

from __future__ import annotations

from em_geometry.judging.score import judge_files
from em_geometry.project import paths
from em_geometry.project.command import PARAMS, ParamsFile, run
from em_geometry.project.inputs import judge, known_texts
from em_geometry.settings import Params, load_params


def main(params: Params) -> None:
    """Judges the unsteered answers of every target."""
    known, allowed = known_texts(params), params.judging.allow_errors
    answers, out = paths.BASELINE_RESPONSES, paths.BASELINE_JUDGEMENTS
    with judge(params) as active:
        judge_files(active, params.targets, answers, out, known, "judge baseline", allowed)


def cli(params: ParamsFile = PARAMS) -> None:
    """Score every model's unsteered answers with the active judge."""
    main(load_params(params))


if __name__ == "__main__":
    run(cli)
