"""What steering vectors do to their own and to other models (paper sec. 2.3, 3.5).

docs/method.md: transfer. Further aspects of the answers are scored because two scores cannot tell
rude help from polite harm.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations, product
from typing import TypeVar

import numpy as np
import polars as pl

from em_geometry.io.results import Leaf, Nested
from em_geometry.judging.rates import rates
from em_geometry.settings import BASE, Judging
from em_geometry.stats.arrays import Floats
from em_geometry.stats.estimate import Estimate
from em_geometry.stats.permutation import dealt, n_splits, share_as_far
from em_geometry.steering.conditions import Selected
from em_geometry.transfer.conditions import CLOSE, Table, name

JUDGED = "judged"  # as the judge's validation writes it
RANDOM = "random"
Pairs = Sequence[tuple[str, str]]  # (source, target)
Groups = Mapping[str, list[str]]  # laboratory or cluster -> its organisms
Changes = Mapping[str, Mapping[str, Estimate]]  # part -> what it is of -> estimate
Found = TypeVar("Found")


@dataclass(frozen=True)
class Models:
    """Who is who."""

    organisms: Sequence[str]  # sources of vectors
    aligned: Sequence[str]  # the base and the controls
    targets: Sequence[str]  # models that are steered
    labs: Groups
    clusters: Groups


def baseline(answers: pl.DataFrame, models: Models, judging: Judging, recited: float) -> Nested:
    """Unsteered rates by model (the paper's 12-65 %), and which organisms stand out.

    An organism stands above base and controls when its interval lies above every one of theirs,
    counting coherent answers of which less than a share `recited` is from training texts.
    """
    results: dict[str, Leaf | Nested] = {}
    fresh: dict[str, Estimate] = {}
    for model in answers["target"].unique(maintain_order=True):
        rows = answers.filter(target=model)
        own = rows.filter(pl.col("overlap") < recited)
        low_overlap = rates(own, judging)
        fresh[model] = low_overlap.estimates["em_betley"]
        results[model] = {
            **rates(rows, judging).headline(),
            "low_overlap": low_overlap.headline(),
            "recited_pct": 100 * (1 - len(own) / len(rows)),
        }
    aligned = [fresh[m] for m in models.aligned]
    ceiling = max(aligned, key=lambda e: np.inf if e.high is None else e.high)
    above = 0
    for slug in models.organisms:
        unknown = [e.status for e in (fresh[slug], ceiling) if e.low is None or e.high is None]
        stands = not unknown and (fresh[slug].low or 0.0) > (ceiling.high or 0.0)
        results[f"{slug}.above_controls"] = unknown[0] if unknown else "yes" if stands else "no"
        above += stands
    return results | {"organisms_above_controls": above, "organisms": len(models.organisms)}


def transfer(
    table: Table, models: Models, named: Pairs, selected: Mapping[str, Selected]
) -> Nested:
    """Effectiveness, risk differences, group pairs, asymmetries, controls, all in percent.

    E2 is the effect on the target over that of the source's fine-tuning, E3 is E1 on aligned
    targets; `named` are the pairs of the paper.
    """
    organisms, targets, labs = models.organisms, models.targets, models.labs
    groups = {"lab_pair": labs, "cluster_pair": models.clusters}
    every, others = list(product(organisms, targets)), directed(organisms, targets)
    sides = [(of, *pair) for of in groups.values() for pair in combinations(of, 2)]

    def e2(s: str, t: str) -> Estimate:
        return table.ratio(table.effect(s, t), table.rate(s) - table.rate(BASE))

    return {
        "effectiveness": {
            "e3": by_pair([(s, t) for s, t in others if t in models.aligned], table.e1),
            "e1": by_pair([(s, t) for s, t in others if t in organisms], table.e1),
            "e2": by_pair(every, e2),
        },
        "risk_difference": by_pair(every, table.change),
        "named_pair": {
            f"{s}__{t}": {"e1": table.e1(s, t), "risk_difference": table.change(s, t)}
            for s, t in named
        },
        **{
            label: {
                f"{a}__{b}": pooled(table, pairs)
                for a, b in product(of, of)
                if (pairs := directed(of[a], of[b]))
            }
            for label, of in groups.items()
        },
        "asymmetry": asymmetries(table, [(labs, a, b) for a, b in permutations(labs, 2)]),
        "dose_convention": {
            convention: asymmetries(replace(table, shares=shares), sides)
            for convention, shares in conventions(selected).items()
        },
        **controls(table, organisms, targets),
    }


def controls(table: Table, organisms: Sequence[str], targets: Sequence[str]) -> Nested:
    """Relative drop of a rate by ablation, and changes by random and orthogonalised vectors."""

    def ablation(s: str, t: str) -> Estimate:
        return table.ratio(table.rate(t) - table.rate(t, s, "ablation", 1), table.rate(t))

    def orthogonalised(s: str, t: str) -> Estimate:
        return table.estimate(table.rate(t, s, "orthogonalised", 1) - table.rate(t))

    def sampled(kind: str) -> list[tuple[str, str]]:
        return [p for p in directed(organisms, targets) if name(p[1], p[0], kind, 1) in table]

    random = random_effects(table, targets)
    return {
        "ablation": {slug: ablation(slug, slug) for slug in organisms},
        "ablation_pair": by_pair(sampled("ablation"), ablation),
        "control": {
            **{source: table.estimate(each.mean(0)) for source, each in random.items()},
            "orthogonalised": by_pair(sampled("orthogonalised"), orthogonalised),
        },
    }


def by_pair(pairs: Pairs, of: Callable[[str, str], Found]) -> dict[str, Found]:
    """Results of pairs by `source__target`."""
    return {f"{source}__{target}": of(source, target) for source, target in pairs}


def directed(sources: Sequence[str], targets: Sequence[str]) -> list[tuple[str, str]]:
    """All (source, target) pairs, a model's effect on itself left out."""
    return [(s, t) for s, t in product(sources, targets) if s != t]


def mean_effects(table: Table, pairs: Pairs) -> tuple[Floats, Floats]:
    """Mean effect of vectors on their targets, and on their own models."""
    effect, own = ([of(*pair) for pair in pairs] for of in (table.effect, table.own_effect))
    return np.mean(effect, axis=0), np.mean(own, axis=0)


def pooled(table: Table, pairs: Pairs) -> dict[str, Estimate | int]:
    """E1 and risk difference over several pairs.

    E1 is the ratio of mean effects, not the mean of ratios, which one small denominator may rule.
    """
    there, own = mean_effects(table, pairs)
    change = table.estimate(there, table.n(there, own))
    return {"pairs": len(pairs), "e1": table.ratio(there, own), "risk_difference": change}


def asymmetries(table: Table, sides: Sequence[tuple[Groups, str, str]]) -> dict[str, Leaf]:
    """Risk difference of a -> b minus that of b -> a, in points, for each (groups, a, b).

    p deals the group labels of all models anew. The smallest p that the number of different deals
    allows stands beside it: with groups of equal size each deal has a mirror image of the same
    absolute difference. A deal whose difference is undefined never lowers p.
    """
    results: dict[str, Leaf] = {}
    for groups, a, b in sides:
        models = [m for members in groups.values() for m in members]
        first, second = groups[a], groups[b]
        sizes = len(first), len(second), len(models) - len(first) - len(second)
        there, back = (directed(*pair) for pair in ((first, second), (second, first)))
        observed = table.estimate(mean_effects(table, there)[0] - mean_effects(table, back)[0])
        deals, key = n_splits(sizes), f"{a}__{b}"
        results |= {
            key: observed,
            f"{key}.ratio": direction_ratio(table, first, second),
            f"{key}.deals": deals,
            f"{key}.smallest_p": (2 if len(first) == len(second) else 1) / deals,
        }
        if observed.value is not None:
            effects = np.zeros((len(models), len(models)))
            for i, j in permutations(range(len(models)), 2):
                effects[i, j] = table.value(table.effect(models[i], models[j]))
            results[f"{key}.p"] = share_as_far(observed.value, dealt(effects, sizes), CLOSE)
    return results


def direction_ratio(table: Table, first: Sequence[str], second: Sequence[str]) -> Estimate:
    """Pooled effectiveness first -> second over that of second -> first (the paper's "3-4x")."""
    there, own_there = mean_effects(table, directed(first, second))
    back, own_back = mean_effects(table, directed(second, first))
    n = table.n(there, back, own_there, own_back)
    for part in (own_there, own_back, back):
        found = table.ratio(there, part)
        if found.value is None:
            return replace(found, n=n)
    return table.statistic(
        lambda a, b, c, d: a * d / (b * c), there, own_there, back, own_back, n=n
    )


def conventions(selected: Mapping[str, Selected]) -> dict[str, dict[str, float]]:
    """Shares of the chosen coefficients at which all vectors have the same dose, by convention.

    The paper normalises its vectors, which excludes magnitude; this shows what that decides. The
    common dose is the largest that no vector's chosen coefficient falls short of.
    """
    doses = {
        "unit_multiple": [v.coefficient for v in selected.values()],
        "relative_dose": [v.dose for v in selected.values()],
        "raw_norm": [v.coefficient / v.norm for v in selected.values()],
    }
    shares = {convention: [min(each) / d for d in each] for convention, each in doses.items()}
    return {k: dict(zip(selected, each, strict=True)) for k, each in shares.items()}


def random_effects(table: Table, targets: Sequence[str]) -> dict[str, Floats]:
    """Effect [target, condition] of every random direction, by the direction's name."""
    found: dict[str, Floats] = {}
    while (source := f"random_{len(found)}") and name(targets[0], source, RANDOM, 1) in table:
        each = [table.rate(t, source, RANDOM, 1) - table.rate(t) for t in targets]
        found[source] = np.array(each)
    return found


def changes(table: Table, sources: Sequence[str], targets: Sequence[str]) -> Changes:
    """What vectors do to one aspect of the answers, in points of its 0-100 scale.

    `change`: by source (and `random`), target steered minus unsteered, mean over the targets.
    `beyond_random`: the same, minus that of the mean random direction; empty without one.
    """

    def steered(s: str, t: str) -> int:
        return table.n(table.rate(t, s, "vector", 1))

    def pair(s: str, t: str) -> Estimate:
        return table.estimate(table.effect(s, t), steered(s, t))

    means = {s: np.mean([table.effect(s, t) for t in targets], axis=0) for s in sources}
    n = {s: sum(steered(s, t) for t in targets) for s in sources}
    beyond: dict[str, Estimate] = {}
    if chance := random_effects(table, targets):
        at_random = np.concatenate(list(chance.values())).mean(0)
        beyond = {s: table.estimate(each - at_random, n[s]) for s, each in means.items()}
        means[RANDOM] = at_random
        conditions = [name(t, source, RANDOM, 1) for source in chance for t in targets]
        n[RANDOM] = sum(table.counts[condition] for condition in conditions)
    return {
        "change": {s: table.estimate(each, n[s]) for s, each in means.items()},
        "beyond_random": beyond,
        "pair": by_pair(list(product(sources, targets)), pair),
        "unsteered": {t: table.estimate(table.rate(t)) for t in targets},
    }


def aspect_rows(
    status: Mapping[str, str], found: Mapping[str, Changes], sources: Sequence[str]
) -> pl.DataFrame:
    """A row a vector and aspect; numbers are empty where the aspect is not judged."""
    table = []
    for aspect, said in status.items():
        change = found[aspect]["change"] if aspect in found else {}
        for source in change or sources:
            e = change.get(source, Estimate.undefined(said))
            what = {"source": source, "aspect": aspect, "what": f"{aspect}, {source}"}
            n = None if e.value is None else e.n
            numbers = {"change": e.value, "low": e.low, "high": e.high, "n": n}
            table.append(what | numbers | {"status": said})
    return pl.DataFrame(table, infer_schema_length=None)
