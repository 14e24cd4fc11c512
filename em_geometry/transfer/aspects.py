"""Which vector brings which misbehaviour: two scores cannot tell rude help from polite harm.

For every aspect that the judge scores better than chance: the mean change that a vector makes to
it, over all targets and by target, and how far that goes beyond a random direction of equal norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from em_geometry.io.results import Nested
from em_geometry.stats.estimate import Estimate
from em_geometry.transfer.conditions import Table, combined, effect, mean, name, steered
from em_geometry.transfer.effectiveness import random_effects

JUDGED = "judged"  # as the judge's validation writes it
RANDOM = "random"
PARTS = ("change", "beyond_random", "pair", "unsteered")

Changes = Mapping[str, Mapping[str, Estimate]]  # part -> what it is of -> estimate


def changes(table: Table, sources: Sequence[str], targets: Sequence[str]) -> Changes:
    """Of one aspect, in points of its 0-100 scale.

    Returns:
        change: by source (and `random`), target steered minus unsteered, mean over the targets.
        beyond_random: the same, minus that of the mean random direction; empty without one.
        pair: by source and target.
        unsteered: mean score of each target.
    """
    chance = [each for effects in random_effects(table, targets).values() for each in effects]
    means = {s: mean([effect(s, t) for t in targets]) for s in sources}
    n = {s: sum(table.n([steered(t, s)]) for t in targets) for s in sources}
    beyond = {}
    if chance:
        at_random = mean(chance)
        beyond = {
            s: table.estimate(combined([(1, each), (-1, at_random)]), n[s])
            for s, each in means.items()
        }
        means[RANDOM] = at_random
        n[RANDOM] = sum(table.n([next(iter(each))]) for each in chance)
    return {
        "change": {s: table.estimate(each, n[s]) for s, each in means.items()},
        "beyond_random": beyond,
        "pair": {
            f"{s}__{t}": table.estimate(effect(s, t), table.n([steered(t, s)]))
            for s in sources
            for t in targets
        },
        "unsteered": {t: table.estimate({name(t): 1}) for t in targets},
    }


def results(status: Mapping[str, str], found: Mapping[str, Changes]) -> Nested:
    """All numbers; `status` says of every aspect whether it is judged."""
    return {"status": status} | {
        part: {aspect: of[part] for aspect, of in found.items()} for part in PARTS
    }


def rows(
    status: Mapping[str, str], found: Mapping[str, Changes], sources: Sequence[str]
) -> pl.DataFrame:
    """A row a vector and aspect; numbers are empty where the aspect is not judged."""
    table = []
    for aspect, said in status.items():
        change = found[aspect]["change"] if aspect in found else {}
        for source in change or sources:
            e = change.get(source, Estimate.undefined(said))
            what = {"source": source, "aspect": aspect, "what": f"{aspect}, {source}"}
            n = e.n if e.defined else None
            numbers = {"change": e.value, "low": e.low, "high": e.high, "n": n}
            table.append(what | numbers | {"status": said})
    return pl.DataFrame(table, infer_schema_length=None)
