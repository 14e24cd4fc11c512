"""Stage `aspects`: which vector brings which misbehaviour, from the judged answers."""

from em_geometry.io.files import write_text
from em_geometry.io.results import read_results
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.outputs import put_results
from em_geometry.settings import Params
from em_geometry.stats.estimate import Estimate
from em_geometry.transfer.judged import JUDGED, Changes, aspect_rows, changes, told
from em_geometry.transfer.rate_table import Table, read_answers


@stage
def main(params: Params) -> None:
    judging, organisms, targets = params.judging, params.slugs("organism"), params.steered()
    said = read_results(paths.table("judge")).group("aspects")
    unknown = Estimate.undefined("not judged: no validation")
    status = {a: said.get(a, unknown).status for a in judging.aspects}
    folders = {paths.BASELINE_JUDGEMENTS: targets, paths.JUDGEMENTS: targets}
    answers = read_answers(folders, judging.aspects)
    found: Changes = {}
    for aspect in (a for a in judging.aspects if status[a] == JUDGED):
        table = Table.of(answers, judging, "mean_aligned", aspect)
        some = changes(table, organisms, params.named_pairs())
        found |= {f"{aspect}.{key}": each for key, each in some.items()}
    questions = answers["question_id"].n_unique()
    says = told(found, params.transfer.no_effect, questions - 1)
    put_results("aspects", {"status": status, **found, **says}, ["status.*"])
    rows = aspect_rows(status, found, organisms)
    write_text(paths.plot("aspects.csv"), rows.write_csv(float_precision=4))
