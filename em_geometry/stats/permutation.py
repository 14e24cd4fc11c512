"""p-values from relabelling and from null distributions, and rank correlations with such a p.

So few models allow few relabellings, so the smallest p that they can give always stands beside p.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from math import factorial, prod

import numpy as np
from scipy.stats import rankdata

from em_geometry.stats.estimate import Estimate, Floats, Ints

EXACT, RANDOM = 8, 20_000  # things up to which all orders are tried; orders tried of more
EXACT_ORDERS = 40_320  # orders of that many things
MIN_DEFINED = 0.95  # share of a null that must be numbers for a p-value
SLACK = 1e-12  # correlations this close tie
TIE = 1e-9  # other statistics so close, in shares of their size, tie


def orders(n: int, seed: int) -> Ints:
    """Orders of n things [orders, n], the given one first: all, or `RANDOM` further ones."""
    if n <= EXACT:
        return np.array(list(permutations(range(n))))
    random = np.random.Generator(np.random.Philox(key=seed))
    return np.array([np.arange(n), *(random.permutation(n) for _ in range(RANDOM))])


def splits(left: tuple[int, ...], sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Orders of `left` that differ in which group of these sizes some member is in."""
    if not sizes:
        yield ()
        return
    for chosen in combinations(left, sizes[0]):
        rest = tuple(i for i in left if i not in chosen)
        for tail in splits(rest, sizes[1:]):
            yield chosen + tail


def n_splits(sizes: Sequence[int]) -> int:
    """Number of ways to fill groups of these sizes."""
    return factorial(sum(sizes)) // prod(factorial(size) for size in sizes)


def partitions(
    members: Sequence[Sequence[int]], n: int, limit: int, rng: np.random.Generator
) -> Ints:
    """Reassignments [m, n] of the clustered among n things to clusters of the same sizes.

    Row p says which thing stands where; the observed assignment is among them. All of them when
    they are at most `limit`, else that many at random.
    """
    slots = [i for indices in members for i in indices]
    sizes = [len(indices) for indices in members]
    if n_splits(sizes) <= limit:
        found = list(splits(tuple(slots), sizes))
    else:
        found = [tuple(slots), *(tuple(rng.permutation(slots)) for _ in range(limit - 1))]
    table = np.tile(np.arange(n), (len(found), 1))
    table[:, slots] = np.array(found, dtype=np.int64).reshape(len(found), len(slots))
    return table


def dealt(effects: Floats, sizes: tuple[int, int, int]) -> Floats:
    """[deals] mean effect of the first group on the second minus the reverse, by every deal.

    Args:
        effects: [source, target]; the models of the first group first, those of the second next.
        sizes: of the two groups, and of all the others together.
    """
    given = effects - effects.T
    deals = np.array(list(splits(tuple(range(len(effects))), sizes)))
    first, second = deals[:, : sizes[0]], deals[:, sizes[0] : sizes[0] + sizes[1]]
    found: Floats = given[first[:, :, None], second[:, None, :]].mean((1, 2))
    return found


def share_as_far(observed: float, null: Floats, slack: float) -> float:
    """Two-sided p: share of null values as far from 0 as the observed one, which is among them.

    A null value that is not defined counts as far, so that it never lowers p.
    """
    return float((~(np.abs(null) < abs(observed) - slack)).mean())


def null_p(observed: float, null: Floats) -> float | None:
    """Share of null values as far from the null's median as the observed one, counting it.

    Two-sided, (1 + hits) / (1 + replicates); None where too much of the null is not defined.
    Relabellings that leave a statistic as it is tie with it, whatever their last bits.
    """
    finite = null[np.isfinite(null)]
    if finite.size < MIN_DEFINED * null.size:
        return None
    middle = np.median(finite)
    away = abs(observed - middle)
    hits = (np.abs(finite - middle) >= away - TIE * max(1.0, away)).sum()
    return float((1 + hits) / (1 + finite.size))


@dataclass(frozen=True)
class Tested:
    """A statistic with its permutation test: none where the statistic is undefined."""

    estimate: Estimate
    p: float | None = None  # two-sided
    smallest_p: float | None = None  # no data give a smaller one

    def as_results(self, key: str) -> dict[str, Estimate | float]:
        """Results: the statistic at `key`, p and the smallest p below it."""
        tests = {f"{key}.p": self.p, f"{key}.smallest_p": self.smallest_p}
        return {key: self.estimate} | {k: p for k, p in tests.items() if p is not None}


def partition_test(observed: float, values: Floats) -> Tested:
    """p of a statistic over all label assignments, around their median.

    Args:
        values: [m] of every assignment, the observed one among them; those that only swap
            clusters tie.
    """
    finite = values[np.isfinite(values)]
    middle = float(np.median(finite))
    away = np.abs(finite - middle)
    slack = TIE * max(1.0, float(away.max(initial=0.0)))
    return Tested(
        Estimate(observed, n=len(values)),
        p=float((away >= abs(observed - middle) - slack).mean()),
        smallest_p=float((away >= away.max() - slack).mean()),
    )


def rank_correlations(a: Floats, b: Floats) -> Floats:
    """Spearman's rho of rows [rows, n]; one side may have a single row. NaN where a row is flat."""
    a, b = (rankdata(v, axis=1) - (v.shape[1] + 1) / 2 for v in (a, b))
    scale = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return divided((a * b).sum(1), scale)


def divided(top: Floats, bottom: Floats) -> Floats:
    """`top` / `bottom`, NaN where the bottom is not above 0."""
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)


def said(found: Estimate, p: float, smallest_p: float, level: float) -> str:
    """`evidence`, `cannot tell`, or why there can be no evidence at this level."""
    if found.value is None:
        return found.status
    if smallest_p >= level:
        return f"no evidence possible: no p below {smallest_p:.3g} can be had"
    apart = found.low is None or found.high is None or found.low > 0 or found.high < 0
    return "evidence" if p < level and apart else "cannot tell"
