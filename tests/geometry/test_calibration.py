"""Calibration by simulation: false-positive rates, power, and resampling done the long way."""

import numpy as np
import pytest
from scipy.stats import binom

from em_geometry.geometry import core, grams
from em_geometry.geometry.battery import battery
from em_geometry.geometry.core import core_grams, core_share, core_weights, independent_grams
from em_geometry.geometry.methods import across_mean, cosines, statistics, unit_gram
from em_geometry.geometry.vector_sets import cluster_indices
from em_geometry.settings import Geometry
from em_geometry.stats.estimate import Floats
from em_geometry.stats.permutation import null_p
from tests.geometry.synthetic import RULES

NAMES = list("abcdef")
CLUSTERS = {"x": ["a", "b"], "y": ["c", "d"], "z": ["e", "f"]}
MEMBERS = cluster_indices(NAMES, CLUSTERS)
TIGHT = {"x": 0.75, "y": 0.85, "z": 0.41}


def weights(share: float) -> Floats:
    return core_weights(6, MEMBERS, TIGHT, share)


GRAM = weights(0.2) @ weights(0.2).T


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_bartlett_draws_are_those_of_explicit_vectors() -> None:
    for dimension in (3, 20):
        ours = cosines(independent_grams(rng(), 4000, 6, dimension))[:, 0, 1]
        direct = unit_gram(rng(1).standard_normal((4000, 2, dimension)))[:, 0, 1]
        assert ours.std() == pytest.approx(direct.std(), rel=0.05)
        assert np.quantile(ours, 0.9) == pytest.approx(np.quantile(direct, 0.9), abs=0.03)


def test_the_core_model_has_the_cosines_it_promises() -> None:
    parts = core_weights(7, MEMBERS, TIGHT, 0.2)
    seven = parts @ parts.T
    assert np.diagonal(seven) == pytest.approx(1.0)
    assert seven[6, :6] == pytest.approx(0.2)  # a vector of no cluster: the core and its own part
    assert parts[6, 1 : 1 + len(MEMBERS)].tolist() == [0.0] * len(MEMBERS)
    expected = seven[:6, :6]
    assert expected[0, 1] == pytest.approx(0.75)
    assert expected[0, 2] == expected[3, 5] == pytest.approx(0.2)
    mean = core_grams(rng(), 2000, 4096, weights(0.2)).mean(0)
    assert mean == pytest.approx(expected, abs=0.01)


def test_the_five_statistics_are_those_of_the_battery() -> None:
    grams = core_grams(rng(), 20, 50, weights(0.2))
    whole = battery(grams, CLUSTERS, RULES, names=NAMES).values
    for test, values in statistics(grams, MEMBERS, RULES).items():
        assert np.array_equal(values, whole[f"statistic.{test}"], equal_nan=True)


@pytest.fixture(scope="module")
def sweep() -> core.Sweep:
    return core.sweep(rng(), 2000, 60, GRAM, MEMBERS, RULES)


def test_the_five_percent_threshold_has_five_percent_false_positives(sweep: core.Sweep) -> None:
    fresh = core_grams(rng(9), 2000, 60, weights(0.0))
    found = {**statistics(fresh, MEMBERS, RULES), core.REPLACEMENT: across_mean(fresh, MEMBERS)}
    for name, threshold in sweep.threshold.items():
        if np.isnan(threshold):
            continue
        values = found[name][np.isfinite(found[name])]
        hits = values > threshold if core.SHARED_IS_LARGE[name] else values < threshold
        # both the threshold and the rate are estimated, hence twice the variance
        low, high = binom.interval(0.9999, len(values) // 2, core.LEVEL)
        assert low / (len(values) // 2) <= hits.mean() <= high / (len(values) // 2), name


def test_power_rises_with_the_common_core(sweep: core.Sweep) -> None:
    for name in ("test1", "test2", "test5", core.REPLACEMENT):
        curve = sweep.attainable(sweep.curves[f"{name}_crosses_5pct"])
        assert (np.diff(curve) > -0.03).all(), name
        assert curve[-1] > 0.9, name
    for test in ("test2", "test5"):
        curve = sweep.attainable(sweep.curves[f"{test}_independent"])
        assert curve[0] > curve[-1]


def test_a_fifth_of_common_variance_passes_all_five_at_full_width() -> None:
    found = core.sweep(rng(), 300, 4096, GRAM, MEMBERS, Geometry(focus=["y", "z"]))
    near = np.abs(found.curves["share"] - 0.2).argmin()
    assert found.curves["all_five"][near] > 0.99
    assert np.isnan(found.threshold["test3"])  # independent vectors rarely define it
    verdicts = core.verdicts_of(found)
    for test in ("test1", "test3", "test4"):
        assert verdicts[f"{test}.verdict_paper"] == "cannot discriminate"


def test_rules_on_curves() -> None:
    shares = np.array([0.0, 0.2, 0.4])
    rising, flat = np.array([0.05, 0.5, 0.9]), np.array([0.05, 0.05, 0.05])
    assert core.judge(shares, rising, flat) == ("discriminates", 0.4)
    assert core.judge(shares, flat, flat) == ("cannot discriminate", "never")
    assert core.judge(shares, flat, rising) == ("reversed", "never")
    assert core.judge(shares, rising + 0.1, flat)[0] == "cannot discriminate"


def test_dimension_needed_is_where_two_standard_deviations_are() -> None:
    angle = 101.7
    cosine = np.cos(np.radians(angle))
    pair = {"x": [0], "y": [1]}
    needed = core.dimensions_needed(np.array([[1.0, cosine], [cosine, 1.0]]), pair)["x__y"]
    assert isinstance(needed, float)
    spread = cosines(independent_grams(rng(), 20_000, 2, round(needed)))[:, 0, 1]
    assert np.mean(spread < cosine) == pytest.approx(0.025, abs=0.005)
    assert core.dimensions_needed(np.eye(2), pair) == {"x__y": "undefined: a right angle"}


def test_p_values_are_uniform_when_the_null_is_true() -> None:
    grams = core_grams(rng(2), 1500, 60, weights(0.0))
    values = across_mean(grams, MEMBERS)
    rate = np.mean([(null_p(v, values[500:]) or 0.0) <= 0.05 for v in values[:500]])
    low, high = binom.interval(0.9999, 250, 0.05)
    assert low / 250 <= rate <= high / 250


@pytest.mark.parametrize("share", [0.1, 0.25, 0.4])
def test_the_core_s_share_is_found(share: float) -> None:
    exact = weights(share) @ weights(share).T
    assert core_share(exact, MEMBERS) == pytest.approx(share, abs=1e-6)
    grams = core_grams(rng(), 500, 4096, weights(share))
    assert core_share(grams, MEMBERS).mean() == pytest.approx(share, abs=0.02)


def test_loadings_may_have_signs_and_two_clusters_are_not_enough() -> None:
    loading = np.array([0.5, 0.5, -0.5, -0.5, 0.6, 0.6])
    gram = np.outer(loading, loading)
    np.fill_diagonal(gram, 1.0)
    assert core_share(gram[None], MEMBERS)[0] == pytest.approx(np.mean([0.25, 0.3, 0.3]), abs=1e-6)
    two = {c: MEMBERS[c] for c in ("x", "y")}
    assert np.isnan(core_share(gram[None], two)).all()


# -- vectors without a topic are those that the rows themselves give

TOPIC = np.array([i % 8 for i in range(43)])  # of unequal size
ROWS = rng().standard_normal((6, 43, 30)) + 0.3
SAMPLE = grams.PromptRows(ROWS, [f"t{k}" for k in TOPIC])


def test_a_topic_is_left_out_with_all_its_rows() -> None:
    assert SAMPLE.vectors == pytest.approx(ROWS.mean(1))
    for topic, found in enumerate(SAMPLE.grams[1:]):
        vectors = np.average(ROWS, axis=1, weights=topic != TOPIC)
        assert found == pytest.approx(vectors @ vectors.T)
