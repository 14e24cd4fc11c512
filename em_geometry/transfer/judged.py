"""What steering vectors do to answers of their own model, of the base, and of the named pairs.

docs/method.md: transfer (paper sec. 2.3, 3.5). Further aspects of the answers are scored because
two scores cannot tell rude help from polite harm.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from em_geometry.io.results import Leaf, Nested, as_estimate
from em_geometry.judging.rates import rates
from em_geometry.settings import BASE, Judging
from em_geometry.stats.decisions import decided
from em_geometry.stats.estimate import Estimate
from em_geometry.transfer.rate_table import Table

JUDGED = "judged"  # as the judge's validation writes it
BEYOND = "beyond_random"
Pairs = Sequence[tuple[str, str]]  # (source, target)
Changes = dict[str, Estimate]  # by key


def baseline(
    answers: pl.DataFrame,
    organisms: Sequence[str],
    aligned: Sequence[str],
    judging: Judging,
    recited: float,
) -> Nested:
    """Unsteered rates by model (the paper's 12-65 %), and which organisms stand out.

    An organism stands above base and controls when its interval lies above every one of theirs,
    counting coherent answers of which less than a share `recited` is from training texts.

    Args:
        aligned: the base and the controls.
    """
    results: dict[str, Leaf | Nested] = {}
    fresh: dict[str, Estimate] = {}
    for model in answers["target"].unique(maintain_order=True):
        rows = answers.filter(target=model)
        own = rows.filter(pl.col("overlap") < recited)
        low_overlap = rates(own, judging)
        fresh[model] = as_estimate(low_overlap["em_betley"])
        results[model] = {
            **rates(rows, judging),
            "low_overlap": low_overlap,
            "recited_pct": 100 * (1 - len(own) / len(rows)),
        }
    ceiling = max((fresh[m] for m in aligned), key=lambda e: np.inf if e.high is None else e.high)
    above = 0
    for slug in organisms:
        unknown = [e.status for e in (fresh[slug], ceiling) if e.low is None or e.high is None]
        stands = not unknown and (fresh[slug].low or 0.0) > (ceiling.high or 0.0)
        results[f"{slug}.above_controls"] = unknown[0] if unknown else "yes" if stands else "no"
        above += stands
    return results | {"organisms_above_controls": above, "organisms": len(organisms)}


def of_conditions(answers: pl.DataFrame, judging: Judging) -> Nested:
    """All rates of every condition, by `<target>.<source>`."""
    groups = answers.sort("condition").group_by("target", "source", maintain_order=True)
    return {f"{target}.{source}": rates(rows, judging) for (target, source), rows in groups}


def transfer(
    table: Table, organisms: Sequence[str], named: Pairs, no_effect: float
) -> dict[str, Leaf]:
    """Changes of the rate, in points, and the named pairs' effectiveness, in percent.

    E1 is the paper's, as we read it: effect on the target over that on the source's own model, both
    against the target unsteered. E2 has the effect of the source's fine-tuning below the line.

    Args:
        named: the pairs of the paper.
        no_effect: points; what lies within it of 0 counts as no effect.
    """
    found = changes(table, organisms, named, ".risk_difference")
    for s, t in named:
        own, training = table.rate(s, s) - table.rate(t), table.rate(s) - table.rate(BASE)
        for ratio, below in (("e1", own), ("e2", training)):
            found[f"named_pair.{s}__{t}.{ratio}"] = table.ratio(table.effect(s, t), below)
    return {**found, **told(found, no_effect, len(table.matrix.without) - 1)}


def changes(table: Table, organisms: Sequence[str], named: Pairs, ending: str = "") -> Changes:
    """What vectors change in the answers, in points.

    `own.<slug>`: its own model; `base.<slug>`: the base; `named_pair.<source>__<target>` and
    `ending`: those; each under the vector minus without. `<key>.beyond_random`: minus the same
    under random directions; `random.<target>`: what those change.
    """
    pairs = {f"own.{slug}": (slug, slug) for slug in organisms}
    pairs |= {f"base.{slug}": (slug, BASE) for slug in organisms}
    pairs |= {f"named_pair.{s}__{t}{ending}": (s, t) for s, t in named}
    found: Changes = {}
    for key, (source, target) in pairs.items():
        found[key] = table.estimate(table.effect(source, target))
        beyond = table.rate(target, source) - table.chance(target)
        found[f"{key}.{BEYOND}"] = table.estimate(beyond)
    for target in (BASE, *organisms):
        found[f"random.{target}"] = table.estimate(table.chance(target) - table.rate(target))
    return found


def told(found: Changes, no_effect: float, df: float) -> dict[str, float | str]:
    """What changes beyond random directions allow to say, with p by Holm over all of them.

    Args:
        df: degrees of freedom of their intervals.
    """
    beyond = {key: each for key, each in found.items() if key.endswith(BEYOND)}
    return decided(beyond, no_effect, df)


def aspect_rows(status: Mapping[str, str], found: Changes, sources: Sequence[str]) -> pl.DataFrame:
    """A row an aspect and vector on the base; numbers are empty where it is not judged."""
    rows = []
    for aspect, said in status.items():
        for source in sources:
            e = found.get(f"{aspect}.base.{source}", Estimate.undefined(said))
            what = {"source": source, "aspect": aspect, "what": f"{aspect}, {source}"}
            n = None if e.value is None else e.n
            numbers = {"change": e.value, "low": e.low, "high": e.high, "n": n}
            rows.append(what | numbers | {"status": said})
    return pl.DataFrame(rows, infer_schema_length=None)
