"""Do vectors lie to each other, and act on each other's models, alike in two base models?

docs/method.md: families. Vectors of two models have no space in common, but their cosines among
themselves can be compared.
"""

from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np

from em_geometry.geometry.references import REFERENCES
from em_geometry.io.results import Nested, Results
from em_geometry.stats.estimate import Estimate, Floats
from em_geometry.stats.permutation import Tested, divided, orders, partition_test

FEWEST = 4  # vectors: of three there are six orders, and no p below 1/6


def mantel(one: Floats, other: Floats, seed: int) -> Tested:
    """Correlation of the entries off the diagonals of two matrices [n, n] (Mantel 1967).

    p is over all orders of the n things in one matrix (random ones of more than 8), two-sided; the
    estimate's n counts pairs, those in both directions once where both matrices are symmetric.
    """
    rows, columns = np.nonzero(~np.eye(len(one), dtype=bool))
    tried = orders(len(one), seed)
    moved = other[tried[:, rows], tried[:, columns]]
    fixed = one[rows, columns] - one[rows, columns].mean()
    moved = moved - moved.mean(1, keepdims=True)
    values = divided(moved @ fixed, np.sqrt((moved**2).sum(1) * (fixed @ fixed)))
    symmetric = all(np.array_equal(each, each.T, equal_nan=True) for each in (one, other))
    pairs = len(rows) // (2 if symmetric else 1)
    if not np.isfinite(values[0]):
        return Tested(Estimate.undefined("undefined: missing, or all equal", pairs))
    found = partition_test(float(values[0]), values)
    return Tested(Estimate(float(values[0]), n=pairs), found.p, found.smallest_p)


def agreement(one: Results, other: Results, organisms: Sequence[str], seed: int) -> Nested:
    """How far two runs agree, for those organisms that both have: cosines by reference, transfer.

    Args:
        one, other: what is kept of the runs; keys begin with the stage's name.
    """
    found: dict[str, Nested | str] = {}
    kinds = {reference: f"geometry.reference.{reference}.cosine" for reference in REFERENCES}
    for kind, key in (kinds | {"transfer": "margins.transfer"}).items():
        tables = [run.group(key) for run in (one, other)]
        both = [name for name in organisms if all(_names(table) >= {name} for table in tables)]
        if len(both) < FEWEST:
            found[kind] = f"undefined: {len(both)} organisms in both runs, {FEWEST} are needed"
            continue
        tested = mantel(_matrix(tables[0], both), _matrix(tables[1], both), seed)
        found[kind] = {"organisms": len(both), **tested.as_results("correlation")}
    return found


def _names(pairs: Mapping[str, Estimate]) -> set[str]:
    """Names of the pairs that have a number."""
    known = (pair.split("__") for pair, found in pairs.items() if found.value is not None)
    return {name for pair in known for name in pair}


def _matrix(pairs: Mapping[str, Estimate], names: Sequence[str]) -> Floats:
    """Numbers [n, n] of the named pairs; one that stands in one direction alone is in both."""
    found = np.full((len(names), len(names)), np.nan)
    for (i, a), (j, b) in permutations(enumerate(names), 2):
        known = pairs.get(f"{a}__{b}") or pairs.get(f"{b}__{a}")
        if known and known.value is not None:
            found[i, j] = known.value
    return found
