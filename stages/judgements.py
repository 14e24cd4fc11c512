"""Stage `judgements`: the active judge's scores of the answers of every target that is steered."""

from __future__ import annotations

from em_geometry.judging.score import judge_files
from em_geometry.project import paths
from em_geometry.project.command import run
from em_geometry.project.inputs import judge, known_texts
from em_geometry.settings import Params


def main(params: Params) -> None:
    known, allowed = known_texts(params), params.judging.allow_errors
    answers, out = paths.RESPONSES, paths.JUDGEMENTS
    with judge(params) as active:
        judge_files(active, params.steered(), answers, out, known, "judge steered", allowed)


if __name__ == "__main__":
    run(main)
