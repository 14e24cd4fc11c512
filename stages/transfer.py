"""Stage `transfer`: unsteered rates, transfer effectiveness, asymmetry, controls."""

from __future__ import annotations

from itertools import combinations

from em_geometry.io.files import write_text
from em_geometry.io.results import read_results, write_results
from em_geometry.project import paths
from em_geometry.project.command import PARAMS, ParamsFile, run
from em_geometry.settings import BASE, Params, load_params
from em_geometry.steering.selected import read_selected
from em_geometry.transfer.conditions import Table, condition_table, read_answers, stacked
from em_geometry.transfer.effectiveness import Models, baseline, transfer


def models(params: Params) -> Models:
    """Who is who in this run."""
    organisms, labs = params.slugs("organism"), dict[str, list[str]]()
    for slug in organisms:
        labs.setdefault(params.organisms[slug].lab, []).append(slug)
    aligned = [BASE, *params.slugs("control")]
    return Models(organisms, aligned, params.steered(), labs, params.clusters())


def main(params: Params) -> None:
    """Everything that follows from the judged answers."""
    who, chosen, judging = models(params), params.transfer, params.judging
    unsteered = read_answers(paths.BASELINE_JUDGEMENTS, params.targets, judging.aspects)
    write_results(
        paths.table("baseline"),
        paths.metrics("baseline"),
        baseline(unsteered, who, judging, chosen.recited_from),
        [*(f"{m}.em_turner" for m in (BASE, *who.organisms)), "organisms*"],
    )
    answers = read_answers(paths.JUDGEMENTS, who.targets, judging.aspects)
    table = Table.of(answers, judging, params.run.seed, chosen.bootstrap, chosen.rate)
    similarity = read_results(paths.table("base_similarity"))
    named = [(source, target) for source, _, target in (p.partition(">") for p in chosen.pairs)]
    results = transfer(
        table,
        who,
        named,
        read_selected(paths.SELECTED),
        {m: similarity.number(f"model.{m}.contrast_cosine") for m in who.organisms},
        params.run.seed,
    )
    pairs = [f"asymmetry.{a}__{b}" for a, b in combinations(who.labs, 2)]
    headline = ["rate", "named_pair.*.risk_difference", *pairs]
    results = {"rate": chosen.rate, **results}
    write_results(paths.table("transfer"), paths.metrics("transfer"), results, headline)
    conditions = condition_table(answers, judging, stacked(paths.DAMAGE, who.targets))
    write_text(paths.plot("transfer_conditions.csv"), conditions.write_csv(float_precision=4))


def cli(params: ParamsFile = PARAMS) -> None:
    """Measure transfer effectiveness and asymmetry from the judged answers."""
    main(load_params(params))


if __name__ == "__main__":
    run(cli)
