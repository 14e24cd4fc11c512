"""Gram matrices, and the paper's methods and five tests as functions of them (docs/method.md).

Shapes: `gram` is [..., n, n], of unit vectors unless said otherwise; leading axes are replicates.
NaN stands for "undefined"; the battery puts names and reasons on it.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from em_geometry.errors import UserError
from em_geometry.settings import Geometry
from em_geometry.stats.estimate import Bools, Floats

Members: TypeAlias = Mapping[str, Sequence[int]]  # cluster -> positions of its vectors
TINY = 1e-12  # squared lengths and variances below this are rounding noise of unit vectors
RANKS = (1, 2)
MIN_ORIGINAL = 0.02  # a ratio to a smaller original cosine says nothing (docs/method.md: residual)
QUESTIONS = {
    "test1": "angle between clusters, deg",
    "test2": "largest projection on the other's span",
    "test3": "reduction by removing the mean, %",
    "test4": "largest / smallest change by ablating PC1",
    "test5": "largest share on the other's PC1, %",
}
TESTS = tuple(QUESTIONS)
VERDICTS = {1.0: "independent", 0.0: "neither", -1.0: "shared"}  # by the codes of `decide`


def unit_gram(vectors: npt.NDArray[np.floating]) -> Floats:
    """Cosines [..., n, n] of the rows of `vectors` [..., n, d] (docs/method.md: similarity)."""
    rows = np.asarray(vectors, dtype=np.float64)
    rows = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows @ np.swapaxes(rows, -1, -2))


def cosines(gram: Floats) -> Floats:
    """Cosines [..., n, n] of vectors with Gram matrix `gram`; NaN for vectors of no length."""
    squares = np.diagonal(gram, axis1=-2, axis2=-1)
    lengths = np.sqrt(np.where(squares > TINY, squares, np.nan))
    scaled: Floats = gram / lengths[..., :, None] / lengths[..., None, :]
    return np.clip(scaled, -1.0, 1.0)


def angles_deg(cosine: Floats) -> Floats:
    """Angles in degrees; cosines beyond +-1 by rounding are brought back."""
    return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def block(gram: Floats, rows: Sequence[int], columns: Sequence[int]) -> Floats:
    """Inner products [..., rows, columns] of two groups of the vectors."""
    return gram[..., rows, :][..., columns]


def sub_grams(gram: Floats, size: int) -> Floats:
    """Gram matrices [..., m, size, size] of all subsets of the vectors, in lexicographic order."""
    subsets = combinations(range(gram.shape[-1]), size)
    indices = np.array(list(subsets), dtype=np.int64).reshape(-1, size)
    return gram[..., indices[:, :, None], indices[:, None, :]]


def pair_values(matrix: Floats) -> Floats:
    """Entries above the diagonal, [..., n (n - 1) / 2], row by row."""
    rows, columns = np.triu_indices(matrix.shape[-1], 1)
    return matrix[..., rows, columns]


def cluster_pairs(n: int, members: Members) -> tuple[list[int], list[int]]:
    """Positions among `pair_values` of within-cluster pairs and of cross-cluster pairs.

    Vectors of no cluster are in neither.
    """
    owner = {i: cluster for cluster, indices in members.items() for i in indices}
    pairs = [(p, *pair) for p, pair in enumerate(combinations(range(n), 2))]
    known = [(p, owner[i] == owner[j]) for p, i, j in pairs if i in owner and j in owner]
    return [p for p, same in known if same], [p for p, same in known if not same]


def mean(values: Floats) -> Floats:
    """Mean along the last axis; NaN where that is empty."""
    if values.shape[-1] == 0:
        return np.full(values.shape[:-1], np.nan)
    return np.asarray(values.mean(-1))


def divide(top: Floats, bottom: Floats) -> Floats:
    """`top / bottom`, NaN where the bottom is zero or rounding noise."""
    return np.asarray(top / np.where(np.abs(bottom) > TINY, bottom, np.nan))


def pearson(x: Floats, y: Floats) -> Floats:
    """Pearson correlation along the last axis; NaN where either side does not vary."""
    x = x - x.mean(-1, keepdims=True)
    y = y - y.mean(-1, keepdims=True)
    return divide((x * y).sum(-1), np.sqrt((x * x).sum(-1) * (y * y).sum(-1)))


def without(gram: Floats, along: Floats) -> Floats:
    """Cosines after projecting out a unit direction along which the vectors have `along` [..., n].

    NaN for a vector of which nothing is left.
    """
    return cosines(gram - along[..., :, None] * along[..., None, :])


def centred(gram: Floats) -> Floats:
    """Inner products of vectors minus the means of their rows and columns (square: H G H)."""
    rows = gram - gram.mean(-1, keepdims=True)
    return np.asarray(rows - rows.mean(-2, keepdims=True))


def components(gram: Floats) -> tuple[Floats, Floats]:
    """Principal components of n vectors; of `centred(gram)` for centred PCA.

    Returns:
        [..., n] variances, largest first.
        [..., n, n] loadings: eigenvectors of `gram`, a component a column, each one's largest
        entry positive.
    """
    values, vectors = np.linalg.eigh(gram)
    values, vectors = np.maximum(values[..., ::-1], 0.0), vectors[..., ::-1]
    largest = np.abs(vectors).argmax(-2)[..., None, :]
    return values, vectors * np.sign(np.take_along_axis(vectors, largest, axis=-2))


def shares(variances: Floats) -> Floats:
    """Share [..., n] of the variance on each component; NaN when there is none."""
    return divide(variances, variances.sum(-1, keepdims=True))


def within(gram: Floats, members: Sequence[int]) -> Floats:
    """Similarity: mean cosine [...] over pairs of one cluster; NaN for a single member."""
    return mean(pair_values(block(gram, members, members)))


def across_mean(gram: Floats, members: Members) -> Floats:
    """Mean cosine [...] over all pairs across clusters; NaN for fewer than two clusters."""
    _, outside = cluster_pairs(gram.shape[-1], members)
    return mean(pair_values(gram)[..., outside])


def cluster_angle(gram: Floats, first: Sequence[int], second: Sequence[int]) -> Floats:
    """Test 1: angle [...] in degrees between the sums of two clusters; NaN where one vanishes.

    Unit vectors give the paper's test; a Gram matrix of raw vectors gives the raw-norm variant.
    """
    mixed = block(gram, first, second).sum((-2, -1))
    squares = [np.maximum(block(gram, c, c).sum((-2, -1)), 0.0) for c in (first, second)]
    return angles_deg(divide(mixed, np.sqrt(squares[0] * squares[1])))


def planar_error(gram: Floats) -> Floats:
    """Method 2: do three vectors, `gram` [..., 3, 3], lie in a plane?

    Degrees [...] of bc from the nearer of its planar predictions, |ab - ac| and ab + ac. It does
    not depend on which vector is the apex.
    """
    ab, ac, bc = np.moveaxis(angles_deg(pair_values(gram)), -1, 0)
    return np.asarray(np.minimum(np.abs(np.abs(ab - ac) - bc), np.abs(ab + ac - bc)))


def low_rank(gram: Floats) -> tuple[Floats, Floats, Floats]:
    """Method 1: is a triplet captured by one or two directions?

    Singular values [..., n] of the stacked vectors, and Pearson r [..., 2] of `gram` with the Gram
    matrix of the best reconstruction of rank 1 and 2, first over the full matrix, then over the
    pairs. It is not renormalised: of rank 1 all cosines would be +-1.
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


def residual_cosines(gram: Floats) -> Floats:
    """Method 5 and test 3: cosines [..., k, k] of v - (v.m) m, m the mean direction.

    NaN where nothing is left. Three vectors of equal cosine rho have residual cosines of exactly
    -1/2, so the reduction is 1 - 1/(2 rho) and never above 50 %, however strong their common core.
    """
    sums = gram.sum(-1)
    length = np.sqrt(np.maximum(sums.sum(-1), 0.0))
    return without(gram, divide(sums, length[..., None]))


def reduction_pct(gram: Floats, residual: Floats) -> Floats:
    """Mean over pairs [...] of (1 - |residual| / |original|) in percent.

    NaN where an original cosine is below `MIN_ORIGINAL` or a residual is undefined.
    """
    original = np.abs(pair_values(gram))
    ratio = np.abs(pair_values(residual)) / np.where(original < MIN_ORIGINAL, np.nan, original)
    return np.asarray(100.0 * (1.0 - ratio).mean(-1))


def on_pair_means(gram: Floats) -> Floats:
    """Method 4: projections [..., pair, n] of all vectors on the mean direction of each pair.

    NaN where the two vectors of the pair cancel.
    """
    i, j = np.triu_indices(gram.shape[-1], 1)
    squares = gram[..., i, i] + gram[..., j, j] + 2 * gram[..., i, j]
    lengths = np.sqrt(np.maximum(squares, 0.0))[..., None]
    return divide(gram[..., i, :] + gram[..., j, :], lengths)


def span_projection(gram: Floats, vectors: Sequence[int], basis: Sequence[int]) -> Floats:
    """Test 2: length [..., len(vectors)] of each unit vector's projection on the span of `basis`.

    sqrt(b' Gss^+ b) with b the cosines with the basis; collinear members span a smaller space.
    """
    values, directions = np.linalg.eigh(block(gram, basis, basis))
    kept = values > np.sqrt(TINY)
    weights = np.where(kept, 1.0 / np.where(kept, values, 1.0), 0.0)
    on_axes = block(gram, vectors, basis) @ directions
    squares = (on_axes**2 * weights[..., None, :]).sum(-1)
    return np.asarray(np.sqrt(np.clip(squares, 0.0, 1.0)))


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
    own, mixed = block(gram, source, source), block(gram, target, source)
    rest = block(gram, target, target)
    if centre:
        own, mixed, rest = centred(own), centred(mixed), centred(rest)
    variances, loadings = components(own)
    on_first = (mixed @ loadings[..., :, :1])[..., 0]
    energy = np.trace(rest, axis1=-2, axis2=-1)
    return 100.0 * divide((on_first**2).sum(-1), variances[..., 0] * energy)


def ablated_cosines(gram: Floats) -> Floats:
    """Test 4: cosines [..., n, n] of v - (v.p) p, renormalised; p the first centred component.

    Centring removes what all vectors share, so the ablated direction is always a contrast. NaN
    for a vector that lies along p, and where the vectors are all equal.
    """
    variances, loadings = components(centred(gram))
    along = (gram @ loadings[..., :, :1])[..., 0]
    return without(gram, divide(along, np.sqrt(variances[..., :1])))


def changes(gram: Floats, after: Floats, members: Members) -> Floats:
    """Cosines within clusters [..., pair], those `after` minus those before."""
    inside, _ = cluster_pairs(gram.shape[-1], members)
    return np.asarray((pair_values(after) - pair_values(gram))[..., inside])


def size_ratio(change: Floats) -> Floats:
    """Largest over smallest absolute change [...]; NaN for fewer than two pairs."""
    if change.shape[-1] < 2:
        return np.full(change.shape[:-1], np.nan)
    size = np.abs(change)
    return divide(size.max(-1), size.min(-1))


def statistics(gram: Floats, members: Members, rules: Geometry) -> dict[str, Floats]:
    """Test -> [...], from cosines [..., n, n]; NaN where undefined.

    Test 1 the angle in degrees, 2 the largest projection, 3 the reduction in percent of one
    triplet, 4 the ratio of the largest to the smallest change, 5 the largest share in percent.
    """
    found = dict.fromkeys(TESTS, np.full(gram.shape[:-2], np.nan))
    focus = focus_of(members, rules)
    if focus is None:
        return found
    one, two = (members[c] for c in members if c in focus)
    both = ((one, two), (two, one))
    found["test1"] = cluster_angle(gram, one, two)
    found["test2"] = np.concatenate([span_projection(gram, *p) for p in both], axis=-1).max(-1)
    lone, pair = (one, two) if len(two) >= 2 else (two, one)
    if len(pair) >= 2:  # the paper's choice: the first of one cluster with two of the other
        triplet = sorted((lone[0], *pair[:2]))
        small = block(gram, triplet, triplet)
        found["test3"] = reduction_pct(small, residual_cosines(small))
    found["test4"] = size_ratio(changes(gram, ablated_cosines(gram), members))
    found["test5"] = np.max([explained_pct(gram, *p, centre=False) for p in both], axis=0)
    return found


def decide(found: Mapping[str, Floats], rule: Geometry) -> dict[str, Floats]:
    """Test -> verdict codes [...] from test -> statistic [...], by the paper's rules.

    1 independent, 0 neither, -1 shared, NaN undefined. Test 2 has no rule for shared; for test 4
    the paper gives none at all, the rule is ours.
    """
    angle, length, reduction, ratio, share = (found[test] for test in TESTS)
    sides: dict[str, tuple[Bools, Bools | bool]] = {  # independent, shared
        "test1": (angle >= rule.shared_angle_deg, angle < rule.shared_angle_deg),
        "test2": (length < rule.orthogonal_below, False),
        "test3": (reduction < 0.0, reduction > rule.shared_reduction_pct),
        "test4": (ratio > rule.ablation_ratio, False),
        "test5": (share < rule.independent_variance_pct, share > rule.shared_variance_pct),
    }
    codes = {t: np.where(yes, 1.0, np.where(no, -1.0, 0.0)) for t, (yes, no) in sides.items()}
    return {test: np.where(np.isfinite(found[test]), codes[test], np.nan) for test in TESTS}


def count(verdicts: Iterable[Floats]) -> Floats:
    """Number of tests [...] that speak for independence; NaN where all are undefined."""
    codes = np.stack(list(verdicts))
    return np.where(np.isnan(codes).all(0), np.nan, (codes == 1.0).sum(0))


def focus_of(members: Mapping[str, object], rules: Geometry) -> tuple[str, str] | None:
    """The two clusters that the verdicts compare: `focus`, or the first two; None if too few."""
    chosen = rules.focus or list(members)[:2]
    if len(members) < 2:
        return None
    if len(chosen) != 2 or chosen[0] == chosen[1] or not set(chosen) <= set(members):
        raise UserError(
            "the clusters to compare are not two of the clusters",
            where="geometry.focus",
            found=", ".join(chosen),
            expected="two of " + ", ".join(members),
        )
    return chosen[0], chosen[1]
