"""How alike models are: means over groups of pairs, with intervals, and p by giving other labels.

docs/method.md, more: subspaces.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import TypeAlias

import numpy as np
from scipy.stats import norm

from em_geometry.geometry.methods import pair_values
from em_geometry.geometry.references import Finetunes
from em_geometry.hashing import stream
from em_geometry.io.results import Leaf
from em_geometry.stats.estimate import Estimate, Floats, Ints
from em_geometry.stats.intervals import jackknife
from em_geometry.stats.permutation import orders, partitions, rank_correlations
from em_geometry.stats.retraining import Trained, both

RELABELLED = 20_000  # ways to call as many of the models organisms; all where there are fewer
TIE = 1e-9
LEAST_P = 1e-12  # of a normal approximation, whose tails are not to be trusted beyond
Pairs: TypeAlias = Sequence[tuple[str, str]]
Again: TypeAlias = tuple[Mapping[str, str], Sequence[Floats]]


@dataclass(frozen=True, eq=False)
class Alike:
    """How alike models are by one measure.

    Attributes:
        names: [n] of the models.
        values: [n, n].
        without: [topics, n, n] without each topic; None where no texts are read.
        again: of organisms, then of controls: row -> the model of this role that it rests on, and
            the same [n, n] with a second training in one's place, for each.
        chance: mean of adapters of these norms in random directions, and variances [n, n].
    """

    names: Sequence[str]
    values: Floats
    without: Floats | None = None
    again: Sequence[Again] = ()
    chance: tuple[float, Floats] | None = None

    def places(self, names: Iterable[str]) -> list[int]:
        """Rows of those of these models that are here."""
        return [self.names.index(name) for name in names if name in self.names]


def groups(family: Finetunes, clusters: Mapping[str, Sequence[str]]) -> dict[str, Pairs]:
    """Pairs of models by what they are to each other."""
    of = {name: cluster for cluster, members in clusters.items() for name in members}
    organisms = [*combinations(family.organisms, 2)]
    return {
        "organisms": organisms,
        "across": [(a, b) for a, b in organisms if of[a] != of[b]],
        "repeats": [(first, repeat) for repeat, first in (family.repeats or {}).items()],
        "benign": [*combinations(family.controls, 2)],
        "organism_benign": [*product(family.organisms, family.controls)],
        "random": [*combinations(family.random, 2)],
        "organism_random": [*product(family.organisms, family.random)],
    }


def described(
    key: str, found: Alike, pairs: Mapping[str, Pairs], repeats: Mapping[str, str]
) -> dict[str, Leaf]:
    """Mean of every group of pairs, with its intervals, and what random adapters give by theory.

    Where texts are read, the interval is over topics and retraining, and `over_models` stands
    beside it; else it is over models.

    Args:
        repeats: second training -> its original.
    """
    rows: dict[str, Leaf] = {}
    for group, wanted in pairs.items():
        some = [pair for pair in wanted if len(found.places(pair)) == 2]
        if not some:
            continue
        at, own = np.array([found.places(pair) for pair in some]).T, f"{key}.{group}"
        rows[own] = models = _over_models(found.values, at, some, repeats)
        if found.without is not None:
            value, left_out = float(found.values[*at].mean()), found.without[:, *at].mean(-1)
            trained = _trained(found, at, value) if group != "repeats" else []
            rows |= both(own, jackknife(value, left_out), len(left_out) - 1, trained)
            rows[f"{own}.over_models"] = models
        if found.chance is not None:
            mean, spread = found.chance[0], found.chance[1][*at].sum() ** 0.5 / len(some)
            far = (found.values[*at].mean() - mean) / spread
            rows |= {f"{own}.chance": mean, f"{own}.p_chance": max(LEAST_P, float(norm.sf(far)))}
    lowest = -1.0 if key.endswith("cosine") else 0.0
    return {k: e.within(lowest, 1.0) if isinstance(e, Estimate) else e for k, e in rows.items()}


def _trained(found: Alike, at: Ints, value: float) -> list[Trained]:
    """What second trainings change in a mean over pairs, by role."""
    names = {found.names[i] for i in at.ravel().tolist()}
    trained = []
    for rests, again in found.again:
        models = {rests[name] for name in names if name in rests}
        changes = [float(each[*at].mean()) - value for each in again]
        trained.append(Trained(len(models), np.array(changes)))
    return trained


def _over_models(values: Floats, at: Ints, pairs: Pairs, repeats: Mapping[str, str]) -> Estimate:
    """Mean over pairs, jackknifed over models; a second training counts as its original."""
    of = np.array([[repeats.get(name, name) for name in pair] for pair in pairs])
    each = values[*at]
    kept = [~(of == name).any(1) for name in sorted(set(of.ravel()))]
    left = np.array([each[rows].mean() if rows.any() else np.nan for rows in kept])
    return jackknife(float(each.mean()), left)


def relabelled(
    values: Floats, chosen: Sequence[int], others: Sequence[int], seed: int
) -> tuple[float, float]:
    """One-sided p that the chosen are no more alike than any as many of both, and the smallest p.

    Args:
        values: [n, n] how alike things are.
    """
    places, first = [*chosen, *others], len(chosen)
    members = [range(first), range(first, len(places))]
    deals = partitions(members, len(places), RELABELLED, stream(seed, "relabelled", places))
    picked = np.array(places)[deals[:, :first]]
    means = pair_values(values[picked[:, :, None], picked[:, None, :]]).mean(-1)
    return float((means >= means[0] - TIE).mean()), 1 / len(means)


def agreement(one: Floats, other: Floats, seed: int) -> tuple[Estimate, float]:
    """Spearman's rho of two measures [n, n] over pairs of models, and p by relabelling (Mantel).

    The interval is jackknifed over models.
    """
    n = len(one)
    null = _rho(one, other, orders(n, seed))
    kept = [np.ix_(each, each) for each in (np.delete(np.arange(n), k) for k in range(n))]
    left = [float(_rho(one[each], other[each], np.arange(n - 1)[None])[0]) for each in kept]
    p = float((np.abs(null) >= abs(null[0]) - TIE).mean())
    return jackknife(float(null[0]), np.array(left)).within(-1.0, 1.0), p


def _rho(one: Floats, other: Floats, order: Ints) -> Floats:
    """Rank correlations over pairs, the first measure's models in each of the orders [m, n]."""
    moved = pair_values(one[order[:, :, None], order[:, None, :]])
    return rank_correlations(moved, pair_values(other)[None])


def pair_rows(measures: Mapping[str, Alike]) -> list[tuple[str, str, str, float]]:
    """(measure, model, model, how alike) of every pair."""
    return [
        (key, a, b, float(found.values[i, j]))
        for key, found in measures.items()
        for (i, a), (j, b) in combinations(enumerate(found.names), 2)
    ]
