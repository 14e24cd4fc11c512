"""The battery against independent implementations, and what holds of any vectors."""

import json
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import cophenet, fcluster, linkage
from scipy.linalg import subspace_angles
from scipy.spatial.distance import squareform
from scipy.stats import ortho_group
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

from em_geometry.errors import UserError
from em_geometry.geometry import methods, trees
from em_geometry.geometry.battery import battery
from em_geometry.geometry.methods import reduction_pct, residual_cosines, unit_gram
from em_geometry.io.results import check_metrics, nest
from em_geometry.settings import Geometry
from em_geometry.stats.estimate import Floats
from tests.geometry.synthetic import RULES, unit_vectors

TOLERANCE = 1e-9
SIZES = [(3, 16), (4, 64), (6, 576), (6, 4096), (9, 100), (12, 4096)]
MATRICES = pytest.mark.parametrize(("n", "width"), SIZES)


def direction(vector: Floats) -> Floats:
    return vector / np.linalg.norm(vector)


def without(vectors: Floats, axis: Floats) -> Floats:
    left = vectors - np.outer(vectors @ axis, axis)
    return left / np.linalg.norm(left, axis=1, keepdims=True)


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
    variances, axes = methods.components(methods.centred(unit_gram(vectors)))
    ours = axes[:, 0] * np.sqrt(variances[0])
    near(np.abs(ours), np.abs(scores))
    assert ours[np.abs(ours).argmax()] > 0
    loadings = np.array([found[f"pca.centred.loading_pc1.v{i}"] for i in range(n)])
    near(loadings, ours / np.linalg.norm(ours))


@MATRICES
@pytest.mark.parametrize("method", trees.LINKAGES)
def test_dendrogram_is_that_of_scipy(n: int, width: int, method: trees.Linkage) -> None:
    """Of many matrices at once, each is the one that scipy makes of it."""
    many = np.stack([unit_gram(unit_vectors(seed, n, width, 0.5)) for seed in range(n, n + 12)])
    distances = trees.distances(many.reshape(3, 4, n, n))
    heights, widths = (f(distances, method) for f in (trees.heights, trees.silhouettes))
    for at in np.ndindex(3, 4):
        merges = linkage(squareform(distances[at], checks=False), method)
        near(heights[at], cophenet(merges))
        near(trees.merges(distances[at], method), merges)
        for k in range(2, n):
            labels = fcluster(merges, k, "maxclust")
            known = silhouette_score(distances[at], labels, metric="precomputed")
            near(widths[at][k - 2], known)


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


def test_stress_by_hand() -> None:
    """Four vectors at right angles lie at distance 1 from each other, in three dimensions."""
    places, stress = trees.planar_map(np.eye(4))
    shown = np.linalg.norm(places[:, None] - places[None], axis=-1)
    assert stress == pytest.approx(np.sqrt(((shown - (1 - np.eye(4))) ** 2).sum() / 12))
    assert stress > 0.1 > trees.planar_map(np.eye(3))[1]  # any three distances fit into the plane


# -- properties that hold for every set of vectors, and statuses where nothing is defined

SEEDS = st.integers(0, 2**32 - 1)
NAMES = ["a", "b", "c", "d", "e"]
CLUSTERS = {"one": ["a", "b"], "two": ["c", "d", "e"]}


def values(gram: Floats, names: list[str] = NAMES) -> dict[str, float]:
    return {k: float(v) for k, v in battery(gram, CLUSTERS, RULES, names=names).values.items()}


def same(first: dict[str, float], second: dict[str, float]) -> None:
    assert first.keys() == second.keys()
    for key in first:
        assert first[key] == pytest.approx(second[key], rel=1e-7, abs=1e-7, nan_ok=True), key


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_rotation_and_scale_change_nothing(seed: int) -> None:
    vectors = unit_vectors(seed, 5, 16, 0.7)
    rng = np.random.default_rng(seed)
    turned = vectors @ ortho_group.rvs(16, random_state=rng)
    same(values(unit_gram(vectors)), values(unit_gram(turned * rng.uniform(0.1, 9, (5, 1)))))


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.permutations(range(5)))
def test_order_of_names_changes_only_the_keys(seed: int, order: list[int]) -> None:
    gram = unit_gram(unit_vectors(seed, 5, 16, 0.7))
    plain = values(gram)
    moved = values(gram[np.ix_(order, order)], [NAMES[i] for i in order])

    def canonical(key: str) -> str:
        return ".".join("__".join(sorted(part.split("__"))) for part in key.split("."))

    by_name = {canonical(k): v for k, v in plain.items()}
    for key, value in moved.items():
        if key.startswith(("pca.", "statistic.test3", "verdict.")):
            continue  # signs of ties, and the triplet that test 3 takes, go by order
        assert value == pytest.approx(by_name[canonical(key)], rel=1e-7, abs=1e-7, nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.05, 0.99))
def test_equal_cosines_leave_residuals_of_minus_one_half(rho: float) -> None:
    gram = np.full((3, 3), rho) + (1 - rho) * np.eye(3)
    left = residual_cosines(gram)
    assert left[np.triu_indices(3, 1)] == pytest.approx(-0.5, abs=1e-12)
    assert float(reduction_pct(gram, left)) == pytest.approx(100 * (1 - 1 / (2 * rho)))


def test_a_batch_is_its_members() -> None:
    grams = np.stack([unit_gram(unit_vectors(s, 5, 16, 0.7)) for s in range(6)]).reshape(2, 3, 5, 5)
    whole = battery(grams, CLUSTERS, RULES, names=NAMES)
    for index in np.ndindex(2, 3):
        same({k: float(v[index]) for k, v in whole.values.items()}, values(grams[index]))


@pytest.mark.parametrize(
    "clusters",
    [
        {},
        {"one": NAMES},
        {"one": ["a"], "two": ["b"], "three": ["c"]},
        {"one": ["a"], "two": ["c", "d"]},
        {"one": ["a", "b"], "two": ["c", "d", "e"]},
    ],
)
@pytest.mark.parametrize("kind", ["random", "collinear", "equal", "orthogonal", "opposite"])
def test_degenerate_input_gets_statuses(clusters: dict[str, list[str]], kind: str) -> None:
    vectors = unit_vectors(1, 5, 16)
    if kind == "collinear":
        vectors[1] = vectors[0]
    elif kind == "equal":
        vectors[:] = vectors[0]
    elif kind == "orthogonal":
        vectors = np.eye(5)
    elif kind == "opposite":
        vectors[1] = -vectors[0]
    found = battery(unit_gram(vectors), clusters, RULES, names=NAMES, norms=np.ones(5))
    metrics = nest(found.flat())
    check_metrics(metrics)
    assert "NaN" not in json.dumps(metrics)


def test_singletons_and_collinear_clusters_say_why() -> None:
    vectors = unit_vectors(2, 5, 16)
    vectors[1] = vectors[0]
    clusters = {"one": ["a", "b"], "two": ["c"], "three": ["d", "e"]}
    found = battery(unit_gram(vectors), clusters, RULES, names=NAMES).flat()
    assert "one member" in str(found["cross_variance.two_pc1_in_three.centred_pct"])
    assert "equal" in str(found["cross_variance.one_pc1_in_three.centred_pct"])
    assert "one member" in str(found["clusters.average.merge_two"])
    assert isinstance(found["orthogonality.three_on_one.d.magnitude"], float)


@pytest.mark.parametrize(
    ("clusters", "focus"),
    [
        ({"one": ["a", "x"]}, []),
        ({"one": ["a"], "two": ["a", "b"]}, []),
        ({"one": []}, []),
        (CLUSTERS, ["one", "six"]),
    ],
)
def test_clusters_that_make_no_sense_are_refused(
    clusters: dict[str, list[str]], focus: list[str]
) -> None:
    with pytest.raises(UserError, match="clusters to compare" if focus else None):
        battery(np.eye(5), clusters, Geometry(focus=focus), names=NAMES)
