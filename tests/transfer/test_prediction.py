"""Geometry against transfer: known answers, and the whole stage on invented judgements."""

from itertools import permutations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from em_geometry.errors import UserError
from em_geometry.io.results import read_results
from em_geometry.project import paths
from em_geometry.stats.permutation import pair_rank_test
from em_geometry.transfer.prediction import reliability, said
from stages.geometry_predicts_transfer import main
from tests.invented import LABS, REST, STEERED, params, write_everything

pytestmark = pytest.mark.usefixtures("workplace")

APART = ~np.eye(6, dtype=bool)
LEVEL = 0.0125


def noisy(y: np.ndarray, spread: float, draws: int = 400) -> np.ndarray:
    random = np.random.default_rng(0)
    return np.concatenate([y[None], y + spread * random.normal(size=(draws, *y.shape))])


@pytest.mark.parametrize("seed", range(3))
def test_rho_and_p_are_those_of_all_relabellings(seed: int) -> None:
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(5, 5)), random.normal(size=(5, 5))
    apart = ~np.eye(5, dtype=bool)
    null = [
        stats.spearmanr(x[np.ix_(order, order)][apart], y[apart]).statistic
        for order in permutations(range(5))
    ]
    found = pair_rank_test(x, noisy(y, 0.1), seed=0)
    assert found.estimate.value == pytest.approx(null[0])
    assert found.p == pytest.approx(np.mean(np.abs(null) >= abs(null[0]) - 1e-12))
    assert (found.smallest_p, found.estimate.n) == (pytest.approx(1 / 120), 20)


def test_what_depends_on_the_source_alone_is_judged_by_models_not_by_pairs() -> None:
    """30 pairs at p < 1e-5 if they were independent; they are six models."""
    effect = np.array([0.0, 3.0, 1.0, 2.0, 4.0, 5.0])
    x, y = (np.tile(v, (6, 1)).T for v in (np.arange(6.0), effect))
    y = y + 0.1 * np.random.default_rng(3).normal(size=(6, 6))
    found = pair_rank_test(x, noisy(y, 0.1), seed=0)
    assert stats.spearmanr(x[APART], y[APART]).pvalue < 1e-5
    assert found.p > 0.01
    assert said(found, LEVEL, 6) == "no evidence"


def test_a_real_relation_is_evidence_where_there_are_models_enough() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(6, 6))
    found = pair_rank_test(x, noisy(x + 0.2 * random.normal(size=(6, 6)), 0.2), seed=0)
    assert found.estimate.value > 0.85
    assert found.p == pytest.approx(1 / 720)
    assert said(found, LEVEL, 6) == "evidence"
    few = said(pair_rank_test(x[:3, :3], noisy(x[:3, :3], 0.0), seed=0), LEVEL, 3)
    assert few == "no evidence possible: 3 models allow no p below 0.0125"


def test_false_alarms_keep_their_level() -> None:
    """Vectors that say nothing, on outcomes with effects of source and target: p is uniform."""
    random = np.random.default_rng(1)
    ps = []
    for _ in range(200):
        vectors = random.normal(size=(6, 20))
        y = random.normal(size=(6, 1)) + random.normal(size=(1, 6)) + random.normal(size=(6, 6))
        ps.append(pair_rank_test(vectors @ vectors.T, noisy(y, 0.1, draws=20), seed=0).p)
    assert 0.01 < np.mean(np.array(ps) <= 0.05) < 0.10


def test_undefined_pairs_are_left_out_and_reasons_are_said() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(6, 6)), random.normal(size=(6, 6))
    y[0, 1] = y[3, 2] = np.nan
    found, here = pair_rank_test(x, noisy(y, 0.1), seed=0), APART & np.isfinite(y)
    assert found.estimate.n == 28
    assert found.estimate.value == pytest.approx(stats.spearmanr(x[here], y[here]).statistic)
    gap = x.copy()
    gap[0, 1] = np.nan
    drawn = noisy(y, 0.1)
    for other, outcome in ((gap, drawn), (np.ones((6, 6)), drawn), (x[:2, :2], y[None, :2, :2])):
        nothing = pair_rank_test(other, outcome, seed=0)
        assert nothing.estimate.value is None
        assert said(nothing, LEVEL, 6).startswith("undefined")


def test_reliability_is_the_share_that_is_no_noise() -> None:
    y = np.random.default_rng(0).normal(size=(12, 12))
    for spread in (0.0, 0.5):
        expected = 1 - spread**2 / y[~np.eye(12, dtype=bool)].var()
        assert reliability(noisy(y, spread)).value == pytest.approx(expected, abs=0.02)
    assert reliability(noisy(y, 5.0)).value == 0
    assert reliability(noisy(np.ones((4, 4)), 0.0)).value is None


def test_the_stage_end_to_end() -> None:
    write_everything(params())
    main(params())
    found = read_results(paths.table("prediction"))
    table = pl.read_csv(paths.plot("prediction.csv"))
    rows = {(r["source"], r["target"]): r for r in table.to_dicts()}
    assert set(rows) == {(s, t) for s in LABS for t in LABS if s != t}
    for (source, target), row in rows.items():
        gain = sum(STEERED[source, target]) - sum(REST[target])
        assert row["risk_difference"] == pytest.approx(5 * gain)
        assert row["aligned_drop"] == pytest.approx(80 * gain / 20)  # 90 falls to 10
        assert row["aligned_drop_low"] <= row["aligned_drop"] <= row["aligned_drop_high"]
    similar = "predicts.base_similarity.aligned_drop"
    assert (found.rows[similar].n, found.number(f"{similar}.models")) == (6, 3)
    assert found.number(f"{similar}.smallest_p") == pytest.approx(1 / 6, rel=1e-5)
    # all three vectors of the invented run are one vector
    assert found.rows["predicts.cosine.aligned_drop"].status == "undefined: all pairs alike"
    for name in ("prediction", "base_similarity"):
        paths.table(name).unlink()
    with pytest.raises(UserError, match="file not found"):
        main(params())
    assert not paths.table("prediction").exists()
