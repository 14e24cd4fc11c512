"""Transfer of one model's steering vector to another (paper sec. 2.3, 3.5).

docs/method.md: transfer. Effects are weighted sums of the rates of conditions; intervals come from
one bootstrap over the questions that all conditions share, widened where that is narrower than the
numbers of answers allow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations

import numpy as np
import polars as pl

from em_geometry.io.results import Leaf, Nested
from em_geometry.settings import BASE, Judging
from em_geometry.stats.arrays import Floats
from em_geometry.stats.estimate import Estimate
from em_geometry.stats.intervals import bootstrap_estimate
from em_geometry.stats.permutation import n_splits, rank_test, share_as_far, splits
from em_geometry.steering.selected import Selected
from em_geometry.transfer.conditions import (
    CLOSE,
    COUNTED,
    Table,
    Weights,
    combined,
    difference,
    effect,
    mean,
    name,
    rates_of,
    ratio,
    steered,
)

Pairs = Sequence[tuple[str, str]]  # (source, target)


@dataclass(frozen=True)
class Models:
    """Who is who.

    Attributes:
        organisms: sources of vectors.
        aligned: the base and the controls.
        targets: models that are steered.
        labs, clusters: name -> organisms of it.
    """

    organisms: Sequence[str]
    aligned: Sequence[str]
    targets: Sequence[str]
    labs: Mapping[str, list[str]]
    clusters: Mapping[str, list[str]]


def baseline(answers: pl.DataFrame, models: Models, judging: Judging, recited: float) -> Nested:
    """Unsteered rates by model (the paper's 12-65 %), and which organisms stand out.

    An organism stands above base and controls when its interval lies above every one of theirs,
    counting coherent answers that are not recited from training texts.

    Args:
        recited: share of its 4-grams in training texts from which on an answer is recited.
    """
    results: dict[str, Leaf | Nested] = {}
    fresh: dict[str, Estimate] = {}
    for model in answers["target"].unique(maintain_order=True):
        rows = answers.filter(pl.col("target") == model)
        own = rows.filter(pl.col("overlap") < recited)
        low_overlap = rates_of(own, judging)
        fresh[model] = low_overlap.estimates["em_betley"]
        results[model] = {
            **rates_of(rows, judging).headline(),
            "low_overlap": low_overlap.headline(),
            "recited_pct": 100 * (1 - len(own) / len(rows)),
        }
    unknown = [fresh[m].status for m in models.aligned if fresh[m].high is None]
    ceiling = max(fresh[m].high or 0.0 for m in models.aligned)
    said: dict[str, str] = {}
    for slug in models.organisms:
        low = fresh[slug].low
        if low is None or unknown:
            said[slug] = fresh[slug].status if low is None else unknown[0]
        else:
            said[slug] = "yes" if low > ceiling else "no"
    results |= {f"{slug}.above_controls": word for slug, word in said.items()}
    above = list(said.values()).count("yes")
    return results | {"organisms_above_controls": above, "organisms": len(said)}


def transfer(
    table: Table,
    models: Models,
    named: Pairs,
    selected: Mapping[str, Selected],
    similarity: Mapping[str, float],
    seed: int,
) -> Nested:
    """Effectiveness, risk differences, lab pairs, asymmetries, controls, all in percent.

    Args:
        named: the pairs of the paper.
        similarity: organism -> its similarity to the base.
        seed: of the permutations.
    """
    organisms, targets = models.organisms, models.targets
    every = [(s, t) for s in organisms for t in targets]
    kinds = {"e3": models.aligned, "e1": organisms}
    differences = {pair: table.estimate(effect(*pair)) for pair in every}
    groups = {"lab_pair": models.labs, "cluster_pair": models.clusters}
    return {
        "effectiveness": {
            **{
                kind: {_key(s, t): e1(table, s, t) for s, t in every if t in of and s != t}
                for kind, of in kinds.items()
            },
            "e2": {_key(*pair): e2(table, *pair) for pair in every},
        },
        "risk_difference": {_key(*pair): found for pair, found in differences.items()},
        "named_pair": {
            _key(*pair): {"e1": e1(table, *pair), "risk_difference": differences[pair]}
            for pair in named
        },
        **{
            label: {
                _key(a, b): pooled(table, pairs)
                for a in of
                for b in of
                if (pairs := directed(of[a], of[b]))
            }
            for label, of in groups.items()
        },
        **_asymmetries(table, models, selected),
        "ablation": {slug: ablation(table, slug, slug) for slug in organisms},
        "ablation_pair": {
            _key(s, t): ablation(table, s, t)
            for s, t in directed(organisms, targets)
            if name(t, s, "ablation", 1) in table
        },
        "control": _controls(table, models),
        "base_similarity": _with_similarity(differences, organisms, similarity, seed),
    }


def _asymmetries(
    table: Table, models: Models, selected: Mapping[str, Selected]
) -> dict[str, Leaf | Nested]:
    """Both directions between labs, and with vectors of equal strength also between clusters."""
    labs = models.labs
    every = [(of, *pair) for of in (labs, models.clusters) for pair in combinations(of, 2)]
    return {
        "asymmetry": _joined(asymmetry(table, labs, a, b) for a, b in permutations(labs, 2)),
        "dose_convention": {
            convention: _joined(asymmetry(table.at(shares), *each) for each in every)
            for convention, shares in conventions(selected).items()
        },
    }


def _key(source: str, target: str) -> str:
    return f"{source}__{target}"


def _joined(parts: Iterable[Mapping[str, Leaf | Nested]]) -> dict[str, Leaf | Nested]:
    return {key: leaf for part in parts for key, leaf in part.items()}


def directed(sources: Sequence[str], targets: Sequence[str]) -> list[tuple[str, str]]:
    """All (source, target) pairs, a model's effect on itself left out."""
    return [(s, t) for s in sources for t in targets if s != t]


def e1(table: Table, source: str, target: str) -> Estimate:
    """The paper's effectiveness, as we read it, in percent.

    (target by source - target unsteered) / (source's own model by source - target unsteered)
    """
    own = difference(steered(source, source), name(target))
    return table.ratio(effect(source, target), own)


def e2(table: Table, source: str, target: str) -> Estimate:
    """Effect on the target over the effect of the source's fine-tuning, in percent.

    (target by source - target unsteered) / (source unsteered - base unsteered)
    """
    return table.ratio(effect(source, target), difference(name(source), name(BASE)))


def pooled(table: Table, pairs: Pairs) -> dict[str, Estimate | int]:
    """Effectiveness E1 and risk difference over several (source, target) pairs.

    E1 of a group is the ratio of mean effects, not the mean of ratios: a single small
    denominator would otherwise rule the mean.
    """
    there, own = _mean_effect(pairs), _mean_own(pairs)
    n = table.n(there, own)
    return {
        "pairs": len(pairs),
        "e1": table.ratio(there, own),
        "risk_difference": table.estimate(there, n),
    }


def _mean_effect(pairs: Pairs) -> Weights:
    """Mean effect of the vectors on their targets."""
    return mean([effect(*pair) for pair in pairs])


def _mean_own(pairs: Pairs) -> Weights:
    """Mean effect of the vectors on their own models, against the unsteered targets."""
    return mean([difference(steered(s, s), name(t)) for s, t in pairs])


def asymmetry(
    table: Table, groups: Mapping[str, list[str]], a: str, b: str
) -> dict[str, Leaf | Nested]:
    """Difference of the two directions of transfer between groups a and b.

    Risk difference of a -> b minus that of b -> a, in percentage points, with a paired bootstrap
    over questions, and a permutation test that deals the group labels of all models anew. The
    smallest p that the number of different deals allows stands beside p: with groups of equal
    size each deal has a mirror image of the same absolute difference. A deal whose difference is
    undefined counts as extreme, so that it never lowers p.
    """
    models = [m for members in groups.values() for m in members]
    first, second = groups[a], groups[b]
    sizes = len(first), len(second), len(models) - len(first) - len(second)
    there, back = (_mean_effect(directed(*pair)) for pair in ((first, second), (second, first)))
    observed = table.estimate(combined([(1, there), (-1, back)]))
    deals = n_splits(sizes)
    key = _key(a, b)
    results: dict[str, Leaf | Nested] = {
        key: observed,
        f"{key}.ratio": direction_ratio(table, first, second),
        f"{key}.deals": deals,
        f"{key}.smallest_p": (2 if len(first) == len(second) else 1) / deals,
    }
    if observed.value is not None:
        null = _dealt(table, models, sizes)
        results[f"{key}.p"] = share_as_far(observed.value, null, CLOSE)
    return results


def _dealt(table: Table, models: Sequence[str], sizes: Sequence[int]) -> Floats:
    """[deals] mean effect of the first group on the second minus the reverse, by every deal."""
    n = len(models)
    effects = np.zeros((n, n))
    for i, j in permutations(range(n), 2):
        effects[i, j] = table.sum(effect(models[i], models[j]))[0]
    given = effects - effects.T
    deals = np.array(list(splits(tuple(range(n)), sizes)))
    first, second = deals[:, : sizes[0]], deals[:, sizes[0] : sizes[0] + sizes[1]]
    found: Floats = given[first[:, :, None], second[:, None, :]].mean((1, 2))
    return found


def direction_ratio(table: Table, first: Sequence[str], second: Sequence[str]) -> Estimate:
    """Pooled effectiveness first -> second over that of second -> first (the paper's "3-4x")."""
    pairs = directed(first, second), directed(second, first)
    (there, back), (own_there, own_back) = map(_mean_effect, pairs), map(_mean_own, pairs)
    n = table.n(there, back, own_there, own_back)
    for part in (own_there, own_back, back):
        found = table.ratio(there, part)
        if found.value is None:
            return replace(found, n=n)
    bottom = table.sum(back) * table.sum(own_there)
    known = bootstrap_estimate(bottom, n, COUNTED)
    return ratio(table.sum(there) * table.sum(own_back), bottom, known).scaled(0.01)


def ablation(table: Table, source: str, target: str) -> Estimate:
    """Relative drop of a target's rate when the source's vector is ablated, in percent."""
    acts, rest = name(target, source, "ablation", 1), name(target)
    return table.ratio(difference(rest, acts), {rest: 1.0})


def conventions(selected: Mapping[str, Selected]) -> dict[str, dict[str, float]]:
    """Shares of the chosen coefficients at which all vectors have the same dose, by convention.

    The paper normalises its vectors, which excludes magnitude; this shows what that decides. The
    common dose is the largest that no vector's chosen coefficient falls short of.
    """
    doses = {
        "unit_multiple": {k: v.coefficient for k, v in selected.items()},
        "relative_dose": {k: v.dose for k, v in selected.items()},
        "raw_norm": {k: v.coefficient / v.norm for k, v in selected.items()},
    }
    return {
        convention: {k: min(dose.values()) / d for k, d in dose.items()}
        for convention, dose in doses.items()
    }


def random_effects(table: Table, targets: Sequence[str]) -> dict[str, list[Weights]]:
    """Effect of every random direction on each target, by the direction's name."""
    found: dict[str, list[Weights]] = {}
    while (source := f"random_{len(found)}") and name(targets[0], source, "random", 1) in table:
        found[source] = [difference(name(t, source, "random", 1), name(t)) for t in targets]
    return found


def _controls(table: Table, models: Models) -> Nested:
    """Risk differences of random directions (over all targets) and orthogonalised vectors."""
    chance = random_effects(table, models.targets)
    return {
        **{source: table.estimate(mean(each)) for source, each in chance.items()},
        "orthogonalised": {
            _key(s, t): table.estimate(difference(acts, name(t)))
            for s, t in directed(models.organisms, models.organisms)
            if (acts := name(t, s, "orthogonalised", 1)) in table
        },
    }


def _with_similarity(
    differences: Mapping[tuple[str, str], Estimate],
    organisms: Sequence[str],
    similarity: Mapping[str, float],
    seed: int,
) -> Nested:
    """Rank correlation over organisms of similarity to base with transfer given and received."""

    def averaged(pairs: Pairs) -> float:
        values = [differences[pair].value for pair in pairs]
        return float(np.mean([np.nan if v is None else v for v in values]))

    given = np.array([averaged(directed([m], organisms)) for m in organisms])
    received = np.array([averaged(directed(organisms, [m])) for m in organisms])
    x = np.array([similarity[m] for m in organisms])
    outcomes = {"given": given, "received": received, "asymmetry": given - received}
    return _joined(rank_test(x, y, seed).as_results(k) for k, y in outcomes.items())
