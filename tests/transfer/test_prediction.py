"""Cosines against transfer: planted relations are found, absent ones are not, and the stage."""

from itertools import permutations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from em_geometry.errors import UserError
from em_geometry.io.results import as_estimate, read_results
from em_geometry.project import paths
from em_geometry.project.outputs import put_results
from em_geometry.stats.estimate import Estimate, Floats
from em_geometry.steering.conditions import Selected, write_selected
from em_geometry.transfer.outcomes import Margins
from em_geometry.transfer.prediction import Pairs, dyads, gains, net_transfer, pair_rows, verdict
from stages.geometry_predicts_transfer import main
from tests.invented import params, write_margins

pytestmark = pytest.mark.usefixtures("workplace")

LEVEL = 0.05


def cosines(random: np.random.Generator, n: int = 6, width: int = 4) -> Floats:
    vectors = random.normal(size=(n, width))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors @ vectors.T)


def transfer(
    random: np.random.Generator, x: Floats, slope: float, pair: float = 0.05, noise: float = 0.3
) -> Floats:
    """Gains [6, 6, 48]: strong effects of source and target, the slope, and what is left."""
    n = len(x)
    mean = random.normal(size=(n, 1)) + random.normal(size=(1, n)) + slope * x
    mean = mean + pair * random.normal(size=(n, n))
    return np.asarray(mean[..., None] + noise * random.normal(size=(n, n, 48)))


def test_what_is_left_has_neither_row_nor_column_means() -> None:
    pairs, random = Pairs.of(5), np.random.default_rng(0)
    matrix = random.normal(size=(5, 5))
    left = pairs.dyadic(matrix)
    for places in (pairs.first, pairs.second):
        assert np.bincount(places, left) == pytest.approx(np.zeros(5), abs=1e-9)
    moved = matrix + 3 * random.normal(size=(5, 1)) + random.normal(size=(1, 5))
    assert pairs.dyadic(moved) == pytest.approx(left)


@pytest.mark.parametrize("slope", [0.6, -0.6])
def test_a_planted_slope_is_recovered_and_is_evidence(slope: float) -> None:
    random = np.random.default_rng(1)
    x = cosines(random)
    found = dyads(transfer(random, x, slope), x, seed=0)
    recovered = found["slope"]
    assert isinstance(recovered, Estimate)
    assert recovered.low is not None and recovered.high is not None
    assert recovered.low - 0.05 < slope < recovered.high + 0.05  # 0.05: what is left of the pairs
    assert np.sign(found["correlation"]) == np.sign(slope)
    assert abs(found["correlation"]) > 0.8 > found["correlation.needed"]
    assert found["slope.smallest_p"] <= found["slope.p"] < 0.05
    assert verdict(found, LEVEL) == "evidence"
    assert found["explained"] > 0.7
    assert found["reliability"] > 0.8


def test_p_is_that_of_all_relabellings() -> None:
    random = np.random.default_rng(2)
    x = cosines(random, 5)
    y = transfer(random, x, 0.1)
    pairs = Pairs.of(5)
    left = pairs.dyadic(y.mean(-1))
    null = [stats.pearsonr(pairs.dyadic(x[np.ix_(o, o)]), left)[0] for o in permutations(range(5))]
    found = dyads(y, x, seed=0)
    assert found["correlation"] == pytest.approx(null[0])
    assert found["slope.p"] == pytest.approx(np.mean(np.abs(null) >= abs(null[0]) - 1e-9))
    assert found["slope.smallest_p"] == pytest.approx(1 / 120)


def test_source_and_target_effects_alone_are_no_evidence() -> None:
    """Cosines that go with how strong vectors are: the plain correlation is deceived, not this."""
    ps, plain = [], []
    for seed in range(200):
        random = np.random.default_rng(seed)
        x = cosines(random)
        strength = 5 * x.mean(1, keepdims=True)
        y = transfer(random, x, 0.0, pair=0.2) + (strength + strength.T)[..., None]
        ps.append(float(dyads(y, x, seed=0)["slope.p"]))
        apart = ~np.eye(6, dtype=bool)
        plain.append(stats.spearmanr(x[apart], y.mean(-1)[apart]).pvalue)
    assert np.mean(np.array(plain) < 0.05) > 0.2
    assert 0.01 <= np.mean(np.array(ps) <= 0.05) < 0.09


def test_null_vectors_are_evidence_in_at_most_five_of_a_hundred() -> None:
    words = []
    for seed in range(100):
        random = np.random.default_rng(1000 + seed)
        x = cosines(random)
        words.append(verdict(dyads(transfer(random, x, 0.0), x, seed=0), LEVEL / 2))  # one of two
    assert set(words) <= {"evidence", "cannot tell"}
    assert words.count("evidence") <= 5


def test_reliability_is_the_share_that_is_no_noise() -> None:
    random = np.random.default_rng(3)
    for noise in (0.0, 1.0, 3.0):
        found = []
        for _ in range(20):
            x = cosines(random, 7)
            y = transfer(random, x, 0.0, pair=0.3, noise=noise)
            found.append(dyads(y, x, seed=0)["reliability"])
        expected = 0.3**2 / (0.3**2 + noise**2 / 48)
        assert np.mean(found) == pytest.approx(expected, abs=0.08)


def test_reciprocity_says_whether_pairs_have_a_direction() -> None:
    random = np.random.default_rng(4)
    x = cosines(random, 8)
    pair = random.normal(size=(8, 8))
    for matrix, expected in ((pair + pair.T, 1.0), (pair - pair.T, -1.0)):
        y = np.repeat(matrix[..., None], 4, axis=-1)
        assert dyads(y, x, seed=0)["reciprocity"] == pytest.approx(expected)


def test_reasons() -> None:
    random = np.random.default_rng(5)
    x = cosines(random, 3)
    assert "4 and 2 are the fewest" in verdict(dyads(transfer(random, x, 0), x, 0), LEVEL)
    y = transfer(random, cosines(random, 4), 0)
    assert "nothing is left" in verdict(dyads(y, np.ones((4, 4)), 0), LEVEL)
    x = cosines(random, 4)
    assert verdict(dyads(transfer(random, x, 5.0), x, 0), 0.02).startswith("no evidence possible")


def test_net_transfer_goes_with_similarity_where_it_was_planted() -> None:
    random = np.random.default_rng(6)
    like = np.array([0.9, 0.7, 0.5, 0.3, 0.1, 0.0])
    mean = like[:, None] - like[None, :] + 0.05 * random.normal(size=(6, 6))
    y = mean[..., None] + 0.3 * random.normal(size=(6, 6, 48))
    found = net_transfer(y, like, seed=0)
    slope = as_estimate(found["slope"])
    # a model differs from the mean of the five others by 6/5 of its distance from the mean of all
    assert slope.value == pytest.approx(2 * 6 / 5, abs=0.1)
    assert verdict(found, LEVEL) == "evidence"
    null = net_transfer(y[:, :, :1] * 0 + 0.3 * random.normal(size=(6, 6, 48)), like, seed=0)
    assert verdict(null, LEVEL) == "cannot tell"


# -- the stage

LABS = {f"m{i}": "one" for i in range(4)}


def test_the_stage_end_to_end() -> None:
    chosen = params()
    organism = chosen.organisms["finance"].model_dump()
    chosen = chosen.model_copy(
        update={
            "organisms": {m: chosen.organisms["finance"].model_validate(organism) for m in LABS}
        }
    )
    random = np.random.default_rng(7)
    unit = random.normal(size=(4, 5)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    x = unit.astype(np.float64) @ unit.T.astype(np.float64)
    write_margins([*LABS], x)
    vectors = {m: Selected(unit[i], 3, 0.3, 1.0 + i, 1.0) for i, m in enumerate(LABS)}
    write_selected(paths.SELECTED, vectors, {})
    like = {m: {"contrast_cosine": 0.1 * i} for i, m in enumerate(LABS)}
    put_results("base_similarity", {"model": like})
    main(chosen)
    found = read_results(paths.table("prediction"))
    assert found.number("cosine.slope") == pytest.approx(1, abs=1e-5)
    assert found.number("cosine.correlation") == pytest.approx(1, abs=1e-5)
    assert (found.number("cosine.questions"), found.number("cosine.pairs")) == (6, 12)
    rows = pl.read_csv(paths.plot("prediction.csv"))
    assert len(rows) == 12
    assert rows.filter(source="m1", target="m3")["gain"].item() == pytest.approx(4 + x[1, 3])
    paths.table("base_similarity").unlink()
    with pytest.raises(UserError, match="file not found"):
        main(chosen)


def test_a_question_counts_where_all_pairs_were_measured() -> None:
    write_margins([*LABS], np.eye(4))
    frame = pl.read_parquet(paths.MARGINS)
    here = (pl.col("pair") == "q2") & (pl.col("target") == "m1") & (pl.col("way") == "vector")
    gap = frame.filter(~(here & (pl.col("source") == "m0")))
    whole = gains(Margins.of(frame), [*LABS])
    assert whole.shape == (4, 4, 6)
    assert whole[1, 2].tolist() == pytest.approx([3.0] * 6)
    assert gains(Margins.of(gap), [*LABS]).shape == (4, 4, 5)


def test_rows_hold_what_is_left_of_both_sides() -> None:
    random = np.random.default_rng(8)
    x = cosines(random, 4)
    rows = pair_rows("abcd", transfer(random, x, 1.0, pair=0.0, noise=0.0), x)
    assert rows["dyadic_gain"].to_list() == pytest.approx(rows["dyadic_cosine"].to_list())
