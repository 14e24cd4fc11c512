"""Stage `aspects`: which vector brings which misbehaviour."""

from __future__ import annotations

from em_geometry.io.files import write_text
from em_geometry.io.results import read_results, write_results
from em_geometry.project import paths
from em_geometry.project.command import PARAMS, ParamsFile, run
from em_geometry.settings import Params, load_params
from em_geometry.stats.estimate import Estimate
from em_geometry.transfer.aspects import JUDGED, changes, results, rows
from em_geometry.transfer.conditions import Table, read_answers


def main(params: Params) -> None:
    """Changes of every aspect under every vector."""
    judging, sources, targets = params.judging, params.slugs("organism"), params.steered()
    said = read_results(paths.table("judge")).group("aspects")
    unknown = Estimate.undefined("not judged: no validation")
    status = {a: said.get(a, unknown).status for a in judging.aspects}
    answers = read_answers(paths.JUDGEMENTS, targets, judging.aspects)
    seed, draws = params.run.seed, params.transfer.bootstrap
    found = {
        a: changes(Table.of(answers, judging, seed, draws, "mean_aligned", a), sources, targets)
        for a in judging.aspects
        if status[a] == JUDGED
    }
    headline = [f"change.aligned.{s}" for s in sources]
    table, metrics = paths.table("aspects"), paths.metrics("aspects")
    write_results(table, metrics, results(status, found), ["status.*", *headline])
    write_text(paths.plot("aspects.csv"), rows(status, found, sources).write_csv(float_precision=4))


def cli(params: ParamsFile = PARAMS) -> None:
    """Measure which vector brings which kind of misbehaviour, from the judged answers."""
    main(load_params(params))


if __name__ == "__main__":
    run(cli)
