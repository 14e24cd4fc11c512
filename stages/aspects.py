"""Stage `aspects`: which vector brings which misbehaviour, from the judged answers."""

from em_geometry.io.files import write_text
from em_geometry.io.results import read_results
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.outputs import put_results
from em_geometry.settings import Params
from em_geometry.stats.decisions import decided
from em_geometry.stats.estimate import Estimate
from em_geometry.transfer.conditions import Table, read_answers
from em_geometry.transfer.effects import JUDGED, aspect_rows, changes


@stage
def main(params: Params) -> None:
    judging, sources, targets = params.judging, params.slugs("organism"), params.steered()
    said = read_results(paths.table("judge")).group("aspects")
    unknown = Estimate.undefined("not judged: no validation")
    status = {a: said.get(a, unknown).status for a in judging.aspects}
    answers = read_answers(paths.JUDGEMENTS, targets, judging.aspects)
    found = {
        a: changes(Table.of(answers, judging, "mean_aligned", a), sources, targets)
        for a in judging.aspects
        if status[a] == JUDGED
    }
    headline = ["status.*", *(f"change.aligned.{s}" for s in sources)]
    parts = ("change", "beyond_random", "pair", "unsteered")
    by_part = {part: {aspect: of[part] for aspect, of in found.items()} for part in parts}
    told = "beyond_random" if any(of["beyond_random"] for of in found.values()) else "change"
    effects = {f"{told}.{a}.{s}": found[a][told][s] for a in found for s in sources}
    says = decided(effects, params.transfer.no_effect, answers["question_id"].n_unique() - 1)
    put_results("aspects", {"status": status, **by_part, **says}, headline)
    rows = aspect_rows(status, found, sources)
    write_text(paths.plot("aspects.csv"), rows.write_csv(float_precision=4))
