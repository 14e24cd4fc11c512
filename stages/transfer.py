"""Stage `transfer`: unsteered rates, and what vectors change in answers of own model and base."""

from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.outputs import put_results
from em_geometry.settings import BASE, Params
from em_geometry.transfer.conditions import Table, read_answers
from em_geometry.transfer.effects import baseline, of_conditions, transfer


@stage
def main(params: Params) -> None:
    chosen, judging, targets = params.transfer, params.judging, params.steered()
    organisms, aligned = params.slugs("organism"), [BASE, *params.slugs("control")]
    unsteered = read_answers({paths.BASELINE_JUDGEMENTS: params.answering()}, judging.aspects)
    found = baseline(unsteered, organisms, aligned, judging, chosen.recited_from)
    put_results("baseline", found, ("organisms*",))
    folders = {paths.BASELINE_JUDGEMENTS: targets, paths.JUDGEMENTS: targets}
    answers = read_answers(folders, judging.aspects)
    table = Table.of(answers, judging, chosen.rate)
    results = transfer(table, organisms, params.named_pairs(), chosen.no_effect)
    every = {"rate": chosen.rate, **results, "condition": of_conditions(answers, judging)}
    put_results("transfer", every, ["rate", "own.*", "base.*"])
