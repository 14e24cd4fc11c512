"""Stage `judgements`: the active judge's scores of the answers of every target that is steered."""

from em_geometry.judging.score import judge_files
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import judge, known_texts
from em_geometry.settings import Params


@stage
def main(params: Params) -> None:
    known, allowed = known_texts(params), params.judging.allow_errors
    answers, out = paths.RESPONSES, paths.JUDGEMENTS
    with judge(params) as active:
        judge_files(active, params.steered(), answers, out, known, "judge steered", allowed)
