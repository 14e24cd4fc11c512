"""Every method against an independent implementation on the vectors themselves."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.cluster.hierarchy import cophenet, fcluster, linkage
from scipy.linalg import subspace_angles
from scipy.spatial.distance import squareform
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

from em_geometry.geometry import methods, trees
from em_geometry.geometry.battery import battery
from em_geometry.geometry.gram import unit_gram
from em_geometry.stats.arrays import Floats
from tests.geometry.synthetic import RULES, unit_vectors

TOLERANCE = 1e-9
SIZES = [(3, 16), (4, 64), (6, 576), (6, 4096), (9, 100), (12, 4096)]
MATRICES = pytest.mark.parametrize(("n", "width"), SIZES)


def direction(vector: Floats) -> Floats:
    unit: Floats = vector / np.linalg.norm(vector)
    return unit


def without(vectors: Floats, axis: Floats) -> Floats:
    left = vectors - np.outer(vectors @ axis, axis)
    unit: Floats = left / np.linalg.norm(left, axis=1, keepdims=True)
    return unit


def run(vectors: Floats, norms: Floats | None = None) -> dict[str, object]:
    names = [f"v{i}" for i in range(len(vectors))]
    half = len(names) // 2
    clusters = {"a": names[:half], "b": names[half:]}
    return dict(battery(unit_gram(vectors), clusters, RULES, names=names, norms=norms).flat())


def near(found: object, expected: object) -> None:
    assert found == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)


@MATRICES
def test_pca_is_that_of_scikit_learn(n: int, width: int) -> None:
    vectors = unit_vectors(n, n, width, 0.5)
    found = run(vectors)
    fitted = PCA(svd_solver="full").fit(vectors)
    for k in range(n - 1):
        near(found[f"pca.centred.pc{k + 1}_pct"], 100 * fitted.explained_variance_ratio_[k])
    scores = fitted.transform(vectors)[:, 0]
    ours = methods.components(methods.centred(unit_gram(vectors))).scores[:, 0]
    near(np.abs(ours), np.abs(scores))
    assert ours[np.abs(ours).argmax()] > 0
    loadings = np.array([found[f"pca.centred.loading_pc1.v{i}"] for i in range(n)])
    near(loadings, ours / np.linalg.norm(ours))


@MATRICES
@pytest.mark.parametrize("method", trees.LINKAGES)
def test_dendrogram_is_that_of_scipy(n: int, width: int, method: trees.Linkage) -> None:
    distance = trees.distances(unit_gram(unit_vectors(n, n, width, 0.5)))
    tree = trees.agglomerate(distance[None], method)
    condensed = squareform(distance, checks=False)
    merges = linkage(condensed, method)
    near(squareform(tree.cophenetic[0], checks=False), cophenet(merges))
    near(trees.cophenetic_r(distance[None], tree)[0], cophenet(merges, condensed)[0])
    widths = trees.silhouettes(distance[None], tree)[0]
    for k in range(2, n):
        labels = fcluster(merges, k, "maxclust")
        near(widths[k - 2], silhouette_score(distance, labels, metric="precomputed"))
        ours = trees.flat_labels(tree, k)[0]
        assert ((ours[:, None] == ours) == (labels[:, None] == labels)).all()


@MATRICES
def test_residuals_triangles_and_reconstructions(n: int, width: int) -> None:
    vectors = unit_vectors(n + 1, n, width, 0.7)
    found = run(vectors)
    for triplet in combinations(range(n), 3):
        chosen = vectors[list(triplet)]
        name = "__".join(f"v{i}" for i in triplet)
        cosine = chosen @ chosen.T
        left = without(chosen, direction(chosen.mean(0)))
        pairs = list(combinations(range(3), 2))
        for i, j in pairs:
            key = f"residual.{name}.cosine.v{triplet[i]}__v{triplet[j]}"
            near(found[key], left[i] @ left[j])
        before, after = (np.array([m[p] for p in pairs]) for m in (cosine, left @ left.T))
        if (np.abs(before) >= 0.02).all():
            reduction = 100 * (1 - np.abs(after) / np.abs(before)).mean()
            near(found[f"residual.{name}.reduction_pct"], reduction)
        near(found[f"residual.{name}.mean_drop"], before.mean() - after.mean())
        ab, ac, bc = np.degrees(np.arccos(before))
        near(found[f"triangle.{name}.error_deg"], min(abs(bc - abs(ab - ac)), abs(bc - (ab + ac))))
        u, s, vt = np.linalg.svd(chosen, full_matrices=False)
        near([found[f"subspace.{name}.singular{k}"] for k in (1, 2, 3)], s)
        near(found[f"triangle.{name}.volume"], s.prod())
        for k in (1, 2):
            lower = (u[:, :k] * s[:k]) @ vt[:k]
            r = np.corrcoef((lower @ lower.T).ravel(), cosine.ravel())[0, 1]
            near(found[f"subspace.{name}.rank{k}_r_full"], r)


@MATRICES
def test_ablation_projections_and_cross_variance(n: int, width: int) -> None:
    vectors = unit_vectors(n + 2, n, width, 0.7)
    found = run(vectors)
    half = n // 2
    for i in range(half):
        angle = subspace_angles(vectors[[i]].T, vectors[half:].T)[0]
        near(found[f"orthogonality.a_on_b.v{i}.magnitude"], np.cos(angle))
    first = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)[2][0]
    after = without(vectors, first)
    changes = []
    for group in (range(half), range(half, n)):
        for i, j in combinations(group, 2):
            near(found[f"pc1_ablation.v{i}__v{j}.after"], after[i] @ after[j])
            changes.append(abs(after[i] @ after[j] - vectors[i] @ vectors[j]))
    near(found["pc1_ablation.mean_abs_change"], np.mean(changes))
    for i, j in combinations(range(n), 2):
        axis = direction(vectors[i] + vectors[j])
        near([found[f"projection.v{i}__v{j}.v{k}"] for k in range(n)], vectors @ axis)
    a, b = vectors[:half], vectors[half:]
    for x, y, key in ((a, b, "a_pc1_in_b"), (b, a, "b_pc1_in_a")):
        axis = np.linalg.svd(x, full_matrices=False)[2][0]
        near(found[f"cross_variance.{key}.uncentred_pct"], 100 * ((y @ axis) ** 2).sum() / len(y))
        if half > 1:
            axis = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][0]
            rest = y - y.mean(0)
            share = 100 * ((rest @ axis) ** 2).sum() / (rest**2).sum()
            near(found[f"cross_variance.{key}.centred_pct"], share)


@MATRICES
def test_cluster_angle_with_and_without_norms(n: int, width: int) -> None:
    vectors = unit_vectors(n + 3, n, width, 0.7)
    norms = np.random.default_rng(n).uniform(0.3, 3.0, n)
    found = run(vectors, norms)
    half = n // 2
    for key, rows in (("deg", vectors), ("raw_deg", vectors * norms[:, None])):
        cosine = direction(rows[:half].sum(0)) @ direction(rows[half:].sum(0))
        near(found[f"cluster_angle.a__b_{key}"], np.degrees(np.arccos(cosine)))
    raw = vectors * norms[:, None]
    axis = np.linalg.svd(raw[:half], full_matrices=False)[2][0]
    share = 100 * ((raw[half:] @ axis) ** 2).sum() / (raw[half:] ** 2).sum()
    near(found["cross_variance.a_pc1_in_b.uncentred_raw_pct"], share)


def test_maps_show_an_equilateral_triangle() -> None:
    maps = trees.mds(np.eye(3))
    assert maps.classical_stress == pytest.approx(0, abs=1e-9)
    assert maps.smacof_stress == pytest.approx(0, abs=1e-2)


def test_maps_of_distances_that_are_not_euclidean() -> None:
    turns = np.radians([0.0, 10.0, 25.0, 90.0])
    maps = trees.mds(unit_gram(np.stack([np.cos(turns), np.sin(turns)], axis=1)))
    assert np.isfinite(maps.classical).all()
    assert maps.smacof_stress <= maps.classical_stress


def test_stress_by_hand() -> None:
    """Four vectors at right angles lie at distance 1 from each other, in three dimensions."""
    maps = trees.mds(np.eye(4))
    shown = np.linalg.norm(maps.smacof[:, None] - maps.smacof[None], axis=-1)
    expected = np.sqrt(((shown - (1 - np.eye(4))) ** 2).sum() / 12)
    assert maps.smacof_stress == pytest.approx(expected)
    assert 0.1 < maps.smacof_stress < maps.classical_stress
    turns = np.array([0.0, 0.3, 0.9])  # of three vectors any distances fit into the plane
    gram = np.cos(turns[:, None] - turns[None])
    three = trees.mds(np.eye(3) * 0.4 + 0.6 * gram)
    shown = np.linalg.norm(three.classical[:, None] - three.classical[None], axis=-1)
    assert shown[0, 2] == pytest.approx(0.6 * (1 - np.cos(0.9)) + 0.4, abs=1e-9)


@pytest.mark.parametrize("degrees", [30.0, 90.0, 150.0, 179.0])
def test_the_mean_of_a_pair_halves_its_angle(degrees: float) -> None:
    """Also of vectors that nearly cancel, whose sum is short."""
    cosine = np.cos(np.deg2rad(degrees))
    found = methods.on_pair_means(np.array([[1.0, cosine], [cosine, 1.0]]), np.array([[0, 1]]))
    near(found[0], np.full(2, np.cos(np.deg2rad(degrees / 2))))
