"""Properties that hold for every set of vectors, and statuses where nothing is defined."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

from em_geometry.errors import UserError
from em_geometry.geometry.battery import battery
from em_geometry.geometry.gram import unit_gram
from em_geometry.geometry.methods import reduction_pct, residual_cosines
from em_geometry.io.files import check_metrics, nest
from em_geometry.settings.sections import Geometry
from em_geometry.stats.arrays import Floats
from tests.geometry.synthetic import RULES, unit_vectors

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
