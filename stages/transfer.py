"""Stage `transfer`: unsteered rates, and what vectors change in answers of own model and base.

Beside them the judged rates corrected by labels, and under other settings of the judge.
"""

from pathlib import Path

import polars as pl

from em_geometry.io.files import write_text
from em_geometry.judging.corrected import corrected, groups, ranges, settings, with_labels
from em_geometry.judging.labels import NO_LABELS, read_labelled
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.judged import by_judge
from em_geometry.project.outputs import put_results
from em_geometry.settings import BASE, Params
from em_geometry.transfer.judged import baseline, of_conditions, transfer
from em_geometry.transfer.rate_table import Table, read_answers

POOLED = ("*_unsteered", "*_vectors")
KEYS = ("corrected.{}.plain", "corrected.{}.corrected", "settings.{}.cut.all.*")
HEADLINE = [key.format(group) for group in POOLED for key in KEYS]


@stage
def main(params: Params) -> None:
    chosen, judging, targets = params.transfer, params.judging, params.steered()
    organisms, controls = params.slugs("organism"), params.slugs("control")
    unsteered = read_answers({paths.BASELINE_JUDGEMENTS: params.answering()}, judging.aspects)
    found = baseline(unsteered, organisms, [BASE, *controls], judging, chosen.recited_from)
    put_results("baseline", found, ("organisms*",))
    steered = read_answers({paths.JUDGEMENTS: targets}, judging.aspects)
    answers = pl.concat([unsteered.filter(pl.col("target").is_in(targets)), steered])
    table = Table.of(answers, judging, chosen.rate)
    results = transfer(table, organisms, params.named_pairs(), chosen.no_effect)
    every = {"rate": chosen.rate, **results, "condition": of_conditions(answers, judging)}
    put_results("transfer", every, ["rate", "base.*"])
    which, sampled = groups(organisms, controls), judging.probe.sampled
    labels = read_labelled(Path(sampled)) if sampled else NO_LABELS
    drawn = with_labels(pl.concat([unsteered, steered]), labels, judging)
    others = settings(by_judge(params), which)
    rates = {"corrected": corrected(drawn, which), "settings": dict(ranges(others, which))}
    put_results("judged_rates", rates, HEADLINE)
    write_text(paths.plot("judge_settings.csv"), others.write_csv(float_precision=4))
