"""A core that all vectors share: simulated, estimated, and what can tell it from none.

Simulated (docs/method.md): x_i = sqrt(g) s + sqrt(rho_c - g) u_c + sqrt(1 - rho_c) e_i, a core s
that all vectors share, a part u_c of their cluster, and a part of their own, independent and
isotropic. The expected cosine is rho_c within cluster c and g across clusters.

Power: vectors are simulated with the observed tightness of the clusters and shares g of the core. A
core cannot exceed the loosest cluster's cosine; a second sweep goes on from there with tighter
clusters. For each test two rules are looked at: the paper's, and the threshold that independent
vectors cross in 5 % of draws.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from em_geometry.geometry import methods as m
from em_geometry.io.results import Leaf
from em_geometry.settings import Geometry
from em_geometry.stats.estimate import Bools, Floats, Ints

ROUNDS = 100  # of coordinate descent; far more than six vectors need
POINTS, LARGEST = 11, 0.95  # shares in each sweep; the last share of the second
LEVEL, POWER = 0.05, 0.8  # false positives and power that count as telling apart
REPLACEMENT = "cross_mean"  # mean cosine across clusters, the statistic proposed instead
MIN_DEFINED = 0.5  # share of independent draws that must define a statistic for a threshold
SLACK = 0.02  # simulation error of a probability of 5 %
NO_THRESHOLD = "no threshold"  # too few independent draws define the statistic
Z = 1.96  # half width of the 95 % range of a normal variable
SHARED_IS_LARGE = {test: test not in ("test1", "test4") for test in (*m.TESTS, REPLACEMENT)}


def independent_grams(
    rng: np.random.Generator, replicates: int, count: int, dimension: int | Ints
) -> Floats:
    """Gram matrices [replicates, count, count] of independent isotropic normal vectors.

    Drawn through Bartlett's decomposition, so the cost does not depend on the dimension.
    Divided by the dimension: the expected diagonal is 1.

    Args:
        dimension: of all, or [replicates].
    """
    each = np.broadcast_to(dimension, replicates)[:, None]
    diagonal = np.arange(count)
    freedom = each - diagonal
    lower = np.tril(rng.standard_normal((replicates, count, count)), -1)
    lower[:, diagonal, diagonal] = np.sqrt(rng.chisquare(np.maximum(freedom, 1)))
    lower *= (freedom > 0)[:, None, :]
    return np.asarray(lower @ np.swapaxes(lower, -1, -2) / each[..., None])


def core_weights(n: int, members: m.Members, within: Mapping[str, float], share: float) -> Floats:
    """Weights [n, 1 + clusters + n] of the vectors on core, cluster parts and own parts.

    Args:
        n: number of vectors; those of no cluster have core and own part only.
        within: cluster -> expected cosine within; raised to `share` where it is smaller.
        share: g, the part of every vector's variance that lies on the core.
    """
    weights = np.zeros((n, 1 + len(members) + n))
    own = np.full(n, 1.0 - share)
    weights[:, 0] = np.sqrt(share)
    for c, (cluster, indices) in enumerate(members.items()):
        tightness = max(within.get(cluster, share), share)
        weights[indices, 1 + c] = np.sqrt(tightness - share)
        own[list(indices)] = 1.0 - tightness
    weights[:, 1 + len(members) :] = np.diag(np.sqrt(own))
    return weights


def core_grams(
    rng: np.random.Generator, replicates: int, dimension: int, weights: Floats
) -> Floats:
    """Cosines [replicates, n, n] of vectors with these weights on isotropic parts."""
    grams = independent_grams(rng, replicates, weights.shape[1], dimension)
    return m.cosines(weights @ grams @ weights.T)


def core_share(gram: Floats, members: m.Members) -> Floats:
    """Share [...] of variance that vectors of different clusters have on the common core.

    Cosines across clusters are modelled as a_i a_j with signed loadings, |a| <= 1, by least squares
    (coordinate descent from the leading eigenvector, for all matrices [..., n, n] at once); those
    within are left free, because a cluster's own part raises them too. The share is the mean of
    |a_i a_j| over pairs across clusters; g when every vector has a share g. (The mean of a_i^2 is
    no use: a vector alone can take a loading of 1 to fit noise.) It is positive for independent
    vectors too, so it is read against its null. NaN below three clusters, where only products of
    loadings are identified.
    """
    if len(members) < 3:
        return np.full(gram.shape[:-2], np.nan)
    order = [i for indices in members.values() for i in indices]
    owner = np.array([c for c, indices in enumerate(members.values()) for _ in indices])
    across = (owner[:, None] != owner).astype(float)
    target = m.block(gram, order, order) * across
    values, vectors = np.linalg.eigh(target)
    loadings = vectors[..., -1] * np.sqrt(np.maximum(values[..., -1:], 0.0))
    for _ in range(ROUNDS):
        for i in range(len(order)):
            top = (target[..., i, :] * loadings).sum(-1)
            bottom = (across[i] * loadings**2).sum(-1)
            loadings[..., i] = np.clip(top / np.maximum(bottom, m.TINY), -1.0, 1.0)
    size = np.abs(loadings)
    implied = (size[..., :, None] * size[..., None, :] * across).sum((-2, -1))
    return np.asarray(implied / across.sum())


@dataclass(frozen=True)
class Sweep:
    """Probabilities over shares of the common core.

    `curves` are the columns of plots/power.csv [S]: the shares, ascending from 0; 1 where clusters
    were made tighter than observed to hold the core; the probability of the paper's "independent"
    by each test, and by all five, of draws that define them; and that of crossing each statistic's
    threshold, the value that 5 % of independent draws cross on the shared side. A threshold is NaN,
    with its curves, where too few independent draws define the statistic.
    """

    curves: dict[str, Floats]
    opposite: dict[str, Floats]  # [S] probability of crossing the counterpart on the other side
    threshold: dict[str, float]

    def attainable(self, curve: Floats) -> Floats:
        """The part of a curve for cores that the observed clusters can hold."""
        return np.asarray(curve[self.curves["tighter_clusters"] == 0.0])

    def table(self) -> tuple[list[str], list[list[object]]]:
        """Header and rows of plots/power.csv: one line a share; empty where no threshold is."""
        rows = np.transpose(list(self.curves.values())).tolist()
        return [*self.curves], [["" if np.isnan(cell) else cell for cell in row] for row in rows]


def tightness_of(gram: Floats, members: m.Members) -> dict[str, float]:
    """Mean cosine within each cluster of two or more; negative ones count as 0."""
    found = {
        c: float(m.within(gram, indices)) for c, indices in members.items() if len(indices) > 1
    }
    return {cluster: max(0.0, cosine) for cluster, cosine in found.items()}


def sweep(
    rng: np.random.Generator,
    replicates: int,
    dimension: int,
    gram: Floats,
    members: m.Members,
    rules: Geometry,
) -> Sweep:
    """Simulates both sweeps; `replicates` draws at each share, `dimension` isotropic dimensions.

    Args:
        gram: [n, n] cosines, whose clusters are as tight as the simulated ones are to be.
    """
    tightness = tightness_of(gram, members)
    largest = min([LARGEST, *tightness.values()])
    shares = np.unique(
        np.concatenate([np.linspace(0.0, largest, POINTS), np.linspace(largest, LARGEST, POINTS)])
    )
    found = []
    for share in shares:
        weights = core_weights(len(gram), members, tightness, float(share))
        grams = core_grams(rng, replicates, dimension, weights)
        found.append(
            m.statistics(grams, members, rules) | {REPLACEMENT: m.across_mean(grams, members)}
        )
    draws = {name: np.stack([each[name] for each in found]) for name in SHARED_IS_LARGE}
    codes = m.decide(draws, rules)
    whole = np.isfinite(np.sum(list(codes.values()), axis=0))
    curves = {"share": shares, "tighter_clusters": (shares > largest).astype(np.float64)}
    curves |= {f"{t}_independent": _share(c == 1.0, np.isfinite(c)) for t, c in codes.items()}
    curves["all_five"] = _share(m.count(codes.values()) == len(m.TESTS), whole)
    threshold, opposite = {}, {}
    for name, values in draws.items():
        sign = 1.0 if SHARED_IS_LARGE[name] else -1.0
        null = sign * values[0][np.isfinite(values[0])]
        if null.size < MIN_DEFINED * replicates:
            null = np.full(1, np.nan)  # and so are threshold and curves
        low, high = np.quantile(null, (LEVEL, 1.0 - LEVEL))
        threshold[name] = float(sign * high)
        defined = np.isfinite(values)
        curves[f"{name}_crosses_5pct"] = _share(sign * values > high, defined) + 0.0 * high
        opposite[name] = _share(sign * values < low, defined) + 0.0 * high
    return Sweep(curves, opposite, threshold)


def _share(hits: Bools, defined: Bools) -> Floats:
    """Share [S] of hits, bool [S, B], among defined draws; 0 when none is defined."""
    return np.asarray((hits & defined).sum(-1) / np.maximum(defined.sum(-1), 1))


def judge(shares: Floats, detected: Floats, opposite: Floats) -> tuple[str, float | str]:
    """Verdict on one rule, and the smallest share it finds with 80 % power.

    Args:
        shares: [S] shares that the observed clusters can hold, from 0.
        detected: [S] probability of not calling the vectors independent.
        opposite: [S] probability of calling them more independent than independent ones.
    """
    if np.isnan(detected[0]):
        return NO_THRESHOLD, "never"
    reached = np.flatnonzero(detected >= POWER)
    if detected[0] <= LEVEL + SLACK and reached.size:
        return "discriminates", float(shares[reached[0]])
    if opposite[-1] >= POWER:
        return "reversed", "never"
    return "cannot discriminate", "never"


def verdicts_of(found: Sweep) -> dict[str, Leaf]:
    """Results by dotted key: per test the verdict at the paper's and at the 5 % threshold."""
    curves = {name: found.attainable(curve) for name, curve in found.curves.items()}
    results: dict[str, Leaf] = {}
    for name in SHARED_IS_LARGE:
        detected = {"5pct": curves[f"{name}_crosses_5pct"]}
        if name in m.TESTS:
            detected["paper"] = 1.0 - curves[f"{name}_independent"]
        for rule, curve in detected.items():
            verdict, smallest = judge(
                curves["share"], curve, found.attainable(found.opposite[name])
            )
            results[f"{name}.verdict_{rule}"] = verdict
            results[f"{name}.smallest_share_{rule}"] = smallest
            if rule == "5pct" and verdict != NO_THRESHOLD:
                results[f"{name}.threshold_5pct"] = found.threshold[name]
    results["largest_share"] = float(curves["share"][-1])
    results["all_five_at_zero"] = float(curves["all_five"][0])
    results["all_five_at_largest"] = float(curves["all_five"][-1])
    return results


def dimensions_needed(gram: Floats, members: m.Members) -> dict[str, Leaf]:
    """Effective dimension above which the angle between two clusters is no accident, by pair.

    Cosines of independent isotropic directions in D dimensions have standard deviation
    1 / sqrt(D); beyond the returned D the cosine lies outside their 95 % range.
    """
    needed: dict[str, Leaf] = {}
    for a, b in combinations(members, 2):
        cosine = float(np.cos(np.radians(m.cluster_angle(gram, members[a], members[b]))))
        if not np.isnan(cosine):
            right = abs(cosine) <= m.TINY
            needed[f"{a}__{b}"] = "undefined: a right angle" if right else (Z / cosine) ** 2
    return needed
