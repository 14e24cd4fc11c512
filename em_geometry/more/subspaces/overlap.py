"""Measures of how alike fine-tunes are: cosines and overlaps, of their shifts and of their weights.

docs/method.md, more: subspaces.
"""

from collections.abc import Mapping, Sequence
from itertools import permutations, product
from typing import TypeAlias

import numpy as np

from em_geometry.geometry.methods import divide, unit_gram
from em_geometry.hashing import stream
from em_geometry.more.adapters import Factors, inner
from em_geometry.more.subspaces.likeness import TIE, Again, Alike
from em_geometry.stats.estimate import Floats

RANKS = (1, 2, 4, 8)  # 4 as in Nadaf 2026
EXCHANGES = 5_000  # of organisms and controls
Adapters: TypeAlias = Mapping[str, Mapping[str, Factors]]  # name -> module -> factors


def similarities(rows: Floats) -> dict[str, Floats]:
    """Cosines [n, n] of the means of shifts [n, texts, width], and `overlap_<k>` of their spans.

    The span of rank k is that of the k leading right singular vectors, not centred.
    """
    bases = np.linalg.svd(rows, full_matrices=False)[2]
    return {"cosine": unit_gram(rows.mean(1)), **overlaps(bases)}


def overlaps(bases: Floats) -> dict[str, Floats]:
    """Mean squared cosine of the principal angles of n spans, by rank: [n, n], from 0 to 1.

    Args:
        bases: [n, most, width] orthonormal rows, the leading ones first.
    """
    n, most, width = bases[:, : max(RANKS)].shape
    rows = bases[:, :most].reshape(n * most, width)
    squares = ((rows @ rows.T) ** 2).reshape(n, most, n, most)
    return {
        f"overlap_{k}": np.asarray(squares[:, :k, :, :k].sum((1, 3)) / k)
        for k in RANKS
        if k <= most
    }


def of_shifts(
    shifts: Floats, weights: Floats, names: Sequence[str], topics: Sequence[str],
    again: Sequence[Again] = (),
) -> dict[str, Alike]:  # fmt: skip
    """Every measure of vectors that are weighted sums of models' shifts.

    Args:
        shifts: [model, text, width].
        weights: [vector, model]; `again` (see `Alike`) has them with a second training in a model's
            place.
        names: [vector].
        topics: [text], which are left out in turn.
    """
    of, label = np.array(topics), sorted(set(topics))
    whole = similarities(np.tensordot(weights, shifts, 1))
    without = [similarities(np.tensordot(weights, shifts[:, of != name], 1)) for name in label]
    retrained = [
        (rests, [similarities(np.tensordot(each, shifts, 1)) for each in some])
        for rests, some in again
    ]
    return {
        key: Alike(
            names,
            values,
            np.stack([each[key] for each in without]),
            [(rests, [each[key] for each in some]) for rests, some in retrained],
        )
        for key, values in whole.items()
        if all(key in each for each in without)  # fewer texts than the rank
    }


def exchanged(
    shifts: Floats, own: Sequence[int], apart: Sequence[tuple[int, int]], seed: int
) -> dict[str, float]:
    """One-sided p that organisms less their controls are no more alike than exchanged ones.

    Organisms and controls are put in each other's places at random, so that what a control brings
    to both sides is in the null too.

    Args:
        shifts: [model, text, width], organisms first.
        own: [organism] the model that is its control.
        apart: pairs of organisms that are compared.
    """
    first, second = np.array([*permutations(range(len(shifts)), 2)]).T
    place = np.zeros((len(shifts), len(shifts)), dtype=np.int64)
    place[first, second] = np.arange(len(first))
    rng = stream(seed, "subspaces", "exchanged")
    given = np.arange(len(shifts))
    deals = np.stack([given, *(rng.permutation(given) for _ in range(EXCHANGES))])
    at = place[deals[:, : len(own)], deals[:, list(own)]]
    a, b = np.array(apart).T
    found = similarities(shifts[first] - shifts[second])
    means = {key: values[at[:, a], at[:, b]].mean(-1) for key, values in found.items()}
    return {key: float((each >= each[0] - TIE).mean()) for key, each in means.items()}


def of_weights(adapters: Adapters, width: int) -> dict[str, Alike]:
    """`write.overlap_<k>`, `read.overlap_<k>` and `weights.cosine` of adapters by name.

    Overlaps are means over matrices, weighted by the product of the two updates' norms there: what
    neither training moved much says little. Random adapters have uniformly random spans, whose
    overlaps have a known mean and variance; so have the cosines of their products.
    """
    names, modules = [*adapters], sorted({m for each in adapters.values() for m in each})
    each = [{n: adapters[n][m] for n in names if m in adapters[n]} for m in modules]
    size = np.array([[one[n].norm if n in one else 0.0 for one in each] for n in names])
    found: dict[str, Alike] = {}
    for side, writes in (("write", True), ("read", False)):
        on = [
            m for m, one in enumerate(each) if _on_stream(next(iter(one.values())), width, writes)
        ]
        if not on:
            continue
        most = min([len(f.a) for m in on for f in each[m].values()] + [max(RANKS)])
        none = np.zeros((most, width))
        bases = [[each[m][n].side(most) if n in each[m] else none for n in names] for m in on]
        parts = [overlaps(np.stack(some)) for some in bases]
        share = size[:, None, on] * size[None, :, on]
        share = divide(share, share.sum(-1, keepdims=True))
        for key in parts[0]:
            values = np.einsum("ijm,mij->ij", share, np.stack([part[key] for part in parts]))
            mean, variance = chance_overlap(int(key.rpartition("_")[2]), width)
            chance = mean, variance * (share**2).sum(-1)
            found[f"{side}.{key}"] = Alike(names, values, chance=chance)
    return found | {"weights.cosine": _whole(names, each, size)}


def _on_stream(one: Factors, width: int, writes: bool) -> bool:
    """Is the residual stream on this side of the matrix?"""
    return one.writes == writes and width == (len(one.b) if writes else one.a.shape[1])


def _whole(names: Sequence[str], each: Sequence[Mapping[str, Factors]], size: Floats) -> Alike:
    """Cosines of the whole updates, and the variance of those of random ones."""
    values, spread = np.zeros((2, len(names), len(names)))
    for m, one in enumerate(each):
        for (i, a), (j, b) in product(enumerate(names), repeat=2):
            if a in one and b in one:
                values[i, j] += inner(one[a], one[b])
                entries = len(one[a].b) * one[a].a.shape[1]
                spread[i, j] += (size[i, m] * size[j, m]) ** 2 / entries
    lengths = np.linalg.norm(size, axis=1)
    lengths = lengths[:, None] * lengths
    return Alike(names, values / lengths, chance=(0.0, spread / lengths**2))


def chance_overlap(k: int, width: int) -> tuple[float, float]:
    """Mean and variance of the overlap of a span of rank k with a uniformly random one."""
    squares = width**2 * (width - 1) * (width + 2)
    return k / width, 2 * (width - k) ** 2 / squares
