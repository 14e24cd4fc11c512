"""Stage `transfer`: unsteered rates, transfer effectiveness, asymmetry, controls."""

from itertools import combinations

from em_geometry.io.files import write_text
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.outputs import put_results
from em_geometry.settings import BASE, Params
from em_geometry.steering.conditions import read_selected
from em_geometry.transfer.conditions import Table, condition_table, read_answers, stacked
from em_geometry.transfer.effects import Models, baseline, transfer


@stage
def main(params: Params) -> None:
    chosen, judging = params.transfer, params.judging
    organisms, targets, labs = params.slugs("organism"), params.steered(), params.labs()
    who = Models(organisms, [BASE, *params.slugs("control")], targets, labs, params.clusters())
    unsteered = read_answers(paths.BASELINE_JUDGEMENTS, params.answering(), judging.aspects)
    rates = [*(f"{m}.em_turner" for m in (BASE, *organisms)), "organisms*"]
    put_results("baseline", baseline(unsteered, who, judging, chosen.recited_from), rates)
    answers = read_answers(paths.JUDGEMENTS, targets, judging.aspects)
    table = Table.of(answers, judging, chosen.rate)
    named = [(source, target) for source, _, target in (p.partition(">") for p in chosen.pairs)]
    found = transfer(table, who, named, read_selected(paths.SELECTED))
    pairs = [f"asymmetry.{a}__{b}" for a, b in combinations(labs, 2)]
    headline = ["rate", "named_pair.*.risk_difference", *pairs]
    put_results("transfer", {"rate": chosen.rate, **found}, headline)
    conditions = condition_table(answers, judging, stacked(paths.DAMAGE, targets))
    write_text(paths.plot("transfer_conditions.csv"), conditions.write_csv(float_precision=4))
