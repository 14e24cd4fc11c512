"""Stage `baseline_judgements`: the active judge's scores of every model's unsteered answers."""

from em_geometry.judging.score import judge_files
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import judge, known_texts
from em_geometry.settings import Params


@stage
def main(params: Params) -> None:
    known, allowed = known_texts(params), params.judging.allow_errors
    answers, out = paths.BASELINE_RESPONSES, paths.BASELINE_JUDGEMENTS
    with judge(params) as active:
        judge_files(active, params.answering(), answers, out, known, "judge baseline", allowed)
