"""The paper's methods, each a function of Gram matrices (docs/method.md: geometry).

Shapes: `gram` is [..., n, n] of unit vectors; leading axes are replicates. NaN where undefined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from em_geometry.geometry.gram import (
    TINY,
    angles_deg,
    cosines,
    divide,
    pair_values,
    pearson,
    remove_direction,
)
from em_geometry.stats.arrays import Floats, Ints


def within(gram: Floats, members: Sequence[int]) -> Floats:
    """Similarity: mean cosine [...] over pairs of one cluster; NaN for a single member."""
    pairs = pair_values(gram[..., members, :][..., members])
    if pairs.shape[-1] == 0:
        return np.full(gram.shape[:-2], np.nan)
    mean: Floats = pairs.mean(-1)
    return mean


def across(gram: Floats, first: Sequence[int], second: Sequence[int]) -> Floats:
    """Mean cosine [...] between members of two clusters."""
    mean: Floats = gram[..., first, :][..., second].mean((-2, -1))
    return mean


def across_mean(gram: Floats, members: Mapping[str, Sequence[int]]) -> Floats:
    """Mean cosine [...] over all pairs across clusters; NaN for fewer than two clusters."""
    _, outside = cluster_pairs(gram.shape[-1], list(members.values()))
    if not outside:
        return np.full(gram.shape[:-2], np.nan)
    mean: Floats = pair_values(gram)[..., outside].mean(-1)
    return mean


def cluster_pairs(n: int, clusters: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Positions among `pair_values` of within-cluster pairs and of cross-cluster pairs.

    Vectors of no cluster are in neither.
    """
    owner = {i: c for c, members in enumerate(clusters) for i in members}
    inside: list[int] = []
    outside: list[int] = []
    for position, (i, j) in enumerate(combinations(range(n), 2)):
        if i in owner and j in owner:
            (inside if owner[i] == owner[j] else outside).append(position)
    return inside, outside


def cluster_angle(gram: Floats, first: Sequence[int], second: Sequence[int]) -> Floats:
    """Test 1: angle [...] in degrees between the sums of two clusters; NaN where one vanishes.

    Unit vectors give the paper's test; a Gram matrix of raw vectors gives the raw-norm variant.
    """
    mixed = gram[..., first, :][..., second].sum((-2, -1))
    squares = [gram[..., c, :][..., c].sum((-2, -1)) for c in (first, second)]
    length = np.sqrt(np.maximum(squares[0], 0.0) * np.maximum(squares[1], 0.0))
    return angles_deg(divide(mixed, length))


def planar_predictions(gram: Floats) -> Floats:
    """Angles [..., 2] that bc would have in a plane: |ab - ac| and ab + ac, in degrees."""
    ab, ac = angles_deg(gram[..., 0, 1]), angles_deg(gram[..., 0, 2])
    return np.stack([np.abs(ab - ac), ab + ac], axis=-1)


def planar_error(gram: Floats) -> Floats:
    """Method 2: do three vectors lie in a plane? Degrees [...] from the nearer planar prediction.

    It does not depend on which vector is the apex. `gram` is [..., 3, 3].
    """
    observed = angles_deg(gram[..., 1, 2])
    error: Floats = np.abs(planar_predictions(gram) - observed[..., None]).min(-1)
    return error


def volume(gram: Floats) -> Floats:
    """Volume [...] spanned by the three unit vectors: 0 in a plane, 1 when orthogonal."""
    root: Floats = np.sqrt(np.maximum(np.linalg.det(gram), 0.0))
    return root


RANKS = (1, 2)


def low_rank(gram: Floats) -> tuple[Floats, Floats, Floats]:
    """Method 1: is a triplet captured by one or two directions?

    Singular values [..., n] of the stacked vectors, and Pearson r [..., 2] for ranks 1 and 2. The
    reconstruction is not renormalised: renormalised rank-1 reconstructions have cosines of +-1
    only, so their correlation is undefined. r is that of the Gram matrix of the best rank-k
    reconstruction with `gram`, first over the full matrix, then over the pairs; NaN where the
    entries of either do not vary.
    """
    values, vectors = np.linalg.eigh(gram)
    values, vectors = np.maximum(values[..., ::-1], 0.0), vectors[..., ::-1]
    flat = (*gram.shape[:-2], gram.shape[-1] ** 2)
    full, off, approximation = [], [], np.zeros_like(gram)
    for k in RANKS:
        part = vectors[..., :, k - 1]
        weighted = part * values[..., k - 1, None]
        approximation = approximation + weighted[..., :, None] * part[..., None, :]
        full.append(pearson(approximation.reshape(flat), gram.reshape(flat)))
        off.append(pearson(pair_values(approximation), pair_values(gram)))
    return np.sqrt(values), np.stack(full, axis=-1), np.stack(off, axis=-1)


MIN_ORIGINAL = 0.02  # a ratio to a smaller original cosine says nothing (docs/method.md: residual)


def residual_cosines(gram: Floats) -> Floats:
    """Method 5 and test 3: cosines [..., k, k] of v - (v.m) m, m the mean direction.

    NaN where nothing is left. Three vectors of equal cosine rho have residual cosines of exactly
    -1/2, so the reduction is 1 - 1/(2 rho) and never above 50 %, however strong their common core.
    """
    sums = gram.sum(-1)
    length = np.sqrt(np.maximum(sums.sum(-1), 0.0))
    return cosines(remove_direction(gram, divide(sums, length[..., None])))


def reduction_pct(gram: Floats, residual: Floats) -> Floats:
    """Mean over pairs [...] of (1 - |residual| / |original|) in percent.

    NaN where an original cosine is below `MIN_ORIGINAL` or a residual is undefined.
    """
    original = np.abs(pair_values(gram))
    ratio = np.abs(pair_values(residual)) / np.where(original < MIN_ORIGINAL, np.nan, original)
    mean: Floats = 100.0 * (1.0 - ratio).mean(-1)
    return mean


def mean_drop(gram: Floats, residual: Floats) -> Floats:
    """Mean original cosine minus mean residual cosine [...]."""
    drop: Floats = pair_values(gram).mean(-1) - pair_values(residual).mean(-1)
    return drop


@dataclass(frozen=True)
class Components:
    """Method 3: principal components of n vectors; each one's largest entry is positive.

    Attributes:
        variances: [..., n] eigenvalues, largest first.
        loadings: [..., n, n] eigenvectors of the (centred) Gram matrix, a component a column.
    """

    variances: Floats
    loadings: Floats

    @property
    def shares(self) -> Floats:
        """Share [..., n] of the variance on each component; NaN when there is none."""
        return divide(self.variances, self.variances.sum(-1, keepdims=True))

    @property
    def scores(self) -> Floats:
        """Coordinates [..., n, n] of the vectors on the components."""
        scaled: Floats = self.loadings * np.sqrt(self.variances)[..., None, :]
        return scaled


def centred(gram: Floats) -> Floats:
    """Gram matrix of the vectors minus their mean: H G H."""
    rows = gram - gram.mean(-1, keepdims=True)
    columns: Floats = rows - rows.mean(-2, keepdims=True)
    return columns


def components(gram: Floats) -> Components:
    """Eigenvalues and sign-fixed eigenvectors of `gram` (pass `centred(gram)` for centred PCA)."""
    values, vectors = np.linalg.eigh(gram)
    values, vectors = np.maximum(values[..., ::-1], 0.0), vectors[..., ::-1]
    largest = np.abs(vectors).argmax(-2)[..., None, :]
    signs = np.sign(np.take_along_axis(vectors, largest, axis=-2))
    return Components(values, vectors * signs)


def along_first(gram: Floats, found: Components) -> Floats:
    """Components [..., n] of the (uncentred) vectors along the first principal direction."""
    weights = found.loadings[..., :, :1]
    length = np.sqrt(found.variances[..., :1])
    return divide((gram @ weights)[..., 0], length)


def on_pair_means(gram: Floats, pairs: Ints) -> Floats:
    """Method 4: projections [..., m, n] of all vectors on the mean direction of each pair [m, 2].

    NaN where the two vectors of the pair cancel.
    """
    first, second = pairs[:, 0], pairs[:, 1]
    sums = gram[..., first, :] + gram[..., second, :]
    squares = gram[..., first, first] + gram[..., second, second] + 2 * gram[..., first, second]
    return divide(sums, np.sqrt(np.maximum(squares, 0.0))[..., None])


def span_projection(gram: Floats, vectors: Sequence[int], basis: Sequence[int]) -> Floats:
    """Test 2: length [..., len(vectors)] of each unit vector's projection on the span of `basis`.

    sqrt(b' Gss^+ b) with b the cosines with the basis; collinear members span a smaller space.
    """
    cosine = gram[..., vectors, :][..., basis]
    values, directions = np.linalg.eigh(gram[..., basis, :][..., basis])
    kept = values > np.sqrt(TINY)
    weights = np.where(kept, 1.0 / np.where(kept, values, 1.0), 0.0)
    squares = ((cosine @ directions) ** 2 * weights[..., None, :]).sum(-1)
    lengths: Floats = np.sqrt(np.clip(squares, 0.0, 1.0))
    return lengths


def explained_pct(
    gram: Floats, source: Sequence[int], target: Sequence[int], *, centre: bool
) -> Floats:
    """Test 5: percent [...] of the target cluster's energy on the source's first component.

    With two members the centred first component is their difference, whatever they share.

    Args:
        gram: [..., n, n] of unit vectors, or of raw ones for the raw-norm variant.
        centre: subtract each cluster's own mean first; then a single member, or members that
            are equal, leave nothing and the result is NaN.
    """
    blocks = {
        (a, b): gram[..., rows, :][..., columns]
        for a, rows in (("s", source), ("t", target))
        for b, columns in (("s", source), ("t", target))
    }
    if centre:
        blocks = {
            key: b
            - b.mean(-1, keepdims=True)
            - b.mean(-2, keepdims=True)
            + b.mean((-2, -1))[..., None, None]
            for key, b in blocks.items()
        }
    found = components(blocks["s", "s"])
    on_first = (blocks["t", "s"] @ found.loadings[..., :, :1])[..., 0]
    energy = np.trace(blocks["t", "t"], axis1=-2, axis2=-1)
    return 100.0 * divide((on_first**2).sum(-1), found.variances[..., 0] * energy)


def ablated_cosines(gram: Floats, found: Components) -> Floats:
    """Test 4: cosines [..., n, n] of v - (v.p) p, renormalised; p the first centred component.

    Centring removes what all vectors share, so the ablated direction is always a contrast. NaN
    for a vector that lies along p, and where the vectors are all equal.
    """
    return cosines(remove_direction(gram, along_first(gram, found)))


def within_pairs(members: Mapping[str, Sequence[int]]) -> list[tuple[int, int]]:
    """Pairs of positions inside clusters."""
    return [pair for indices in members.values() for pair in combinations(indices, 2)]


def changes(gram: Floats, after: Floats, pairs: Sequence[tuple[int, int]]) -> Floats:
    """Cosine after minus before [..., pairs]."""
    rows, columns = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    change: Floats = after[..., rows, columns] - gram[..., rows, columns]
    return change


def size_ratio(change: Floats) -> Floats:
    """Largest over smallest absolute change [...]; NaN for fewer than two pairs."""
    if change.shape[-1] < 2:
        return np.full(change.shape[:-1], np.nan)
    size = np.abs(change)
    return divide(size.max(-1), size.min(-1))
