"""Effects of a design: planted ones are found, absent ones are not, aliased ones are named.

First on values, then by the stage on invented activations and judgements.
"""

from itertools import product

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from em_geometry.io.files import write_parquet, write_tensors
from em_geometry.io.results import Results, read_results
from em_geometry.project import paths
from em_geometry.settings import Params
from em_geometry.stats.permutation import orders as model_orders
from em_geometry.steering.conditions import Selected, write_selected
from em_geometry.transfer.factors import (
    against_first,
    confounding,
    effects,
    leads,
    pairs,
    partial_correlation,
    resampled,
    same,
    singles,
)
from stages.factorial import NO_FACTORS, main
from tests.invented import LABS, LAYER, params, write_everything

pytestmark = pytest.mark.usefixtures("workplace")

CELLS = list(product(("m", "p"), ("h", "o"), ("n", "b")))
LEVELS = {k: [c[i] for c in CELLS] for i, k in enumerate(("content", "recipe", "range"))}
ORDERS = model_orders(8, 0)
NONE = resampled(np.empty((0, 28)))


def pair_values(content: float, recipe: float, spread: float, seed: int = 0) -> np.ndarray:
    columns, units = same(LEVELS), pairs(8)
    rows, cols = units.rows, units.columns
    noise = np.random.default_rng(seed).normal(size=28)
    planted = content * columns["same_content"] + recipe * columns["same_recipe"]
    return 60.0 + planted[rows, cols] + spread * noise


def test_planted_effects_on_pairs_are_recovered_and_significant() -> None:
    values = pair_values(-20.0, 5.0, 0.5)
    found, explained = effects(values, NONE, same(LEVELS), pairs(8), ORDERS)
    assert found["same_content"].estimate.value == pytest.approx(-20, abs=0.8)
    assert found["same_recipe"].estimate.value == pytest.approx(5, abs=0.8)
    assert found["same_range"].estimate.value == pytest.approx(0, abs=0.8)
    assert found["same_content"].p < 0.01
    assert found["same_recipe"].p < 0.01
    assert found["same_range"].p > 0.05
    assert explained > 0.98
    assert found["same_content"].estimate.low is None  # without replicates


def test_intervals_are_those_of_the_fit_to_replicates() -> None:
    values = pair_values(-20.0, 5.0, 0.0)
    scales = np.linspace(0.9, 1.1, 201)
    found, _ = effects(values, resampled(scales[:, None] * values), same(LEVELS), pairs(8), ORDERS)
    low, high = np.quantile(-20 * scales, [0.025, 0.975])
    assert found["same_content"].estimate.low == pytest.approx(low)
    assert found["same_content"].estimate.high == pytest.approx(high)


def test_p_never_falls_below_the_smallest_attainable() -> None:
    values = pair_values(-20.0, 0.0, 0.0)
    found, _ = effects(values, NONE, same(LEVELS), pairs(8), ORDERS)
    effect = found["same_content"]
    # 2^3 swaps of levels and the exchange of the two other factors leave the column alone.
    assert effect.smallest_p == pytest.approx(16 / 40320)
    assert (effect.p or 0) >= (effect.smallest_p or 1)
    means = np.array([1.0] * 4 + [0.0] * 4)
    found, _ = effects(
        means, resampled(np.empty((0, 8))), against_first(LEVELS), singles(8), ORDERS
    )
    assert found["content_p"].estimate.value == pytest.approx(-1)
    assert found["content_p"].smallest_p == pytest.approx(2 / 70)
    assert found["content_p"].p == pytest.approx(2 / 70)


def test_p_is_uniform_where_nothing_has_an_effect() -> None:
    rng = np.random.default_rng(1)
    orders = ORDERS[rng.permutation(len(ORDERS))[:400]]
    orders[0] = np.arange(8)
    found = [
        effects(rng.normal(size=28), NONE, same(LEVELS), pairs(8), orders)[0]["same_content"].p
        for _ in range(300)
    ]
    assert np.mean(found) == pytest.approx(0.5, abs=0.06)
    assert np.mean(np.array(found) <= 0.1) == pytest.approx(0.1, abs=0.055)


def test_a_strong_factor_does_not_hide_or_feign_another() -> None:
    rng = np.random.default_rng(2)
    orders = ORDERS[:: len(ORDERS) // 400]
    found = []
    for _ in range(200):
        values = pair_values(-50.0, 0.0, 1.0, int(rng.integers(1 << 30)))
        found.append(effects(values, NONE, same(LEVELS), pairs(8), orders)[0]["same_recipe"].p)
    assert np.mean(np.array(found) <= 0.1) < 0.2


def test_directions_have_no_mean_and_recover_what_leads() -> None:
    given = np.array([3.0 if c == "p" else 0.0 for c in LEVELS["content"]])
    units = pairs(8, constant=False)
    values = given[units.rows] - given[units.columns]
    found, explained = effects(values, NONE, leads(LEVELS), units, ORDERS)
    assert found["content_p"].estimate.value == pytest.approx(3)
    assert found["recipe_o"].estimate.value == pytest.approx(0, abs=1e-9)
    assert explained == pytest.approx(1)
    turned, _ = effects(-values, NONE, leads(LEVELS), units, ORDERS)
    assert turned["content_p"].estimate.value == pytest.approx(-3)
    assert turned["content_p"].p == pytest.approx(found["content_p"].p)


def test_aliased_factors_get_a_status_that_names_the_other() -> None:
    levels = {"lab": list("aaaabbbb"), "kind": list("xxxxyyyy"), "range": list("nbnbnbnb")}
    found, _ = effects(np.arange(28.0), NONE, same(levels), pairs(8), ORDERS)
    assert found["same_lab"].estimate.status == "aliased: cannot be told apart from same_kind"
    assert found["same_lab"].p is None
    assert found["same_range"].estimate.status == "ok"


def test_partial_correlation_is_that_of_residuals() -> None:
    rng = np.random.default_rng(3)
    y, x = rng.normal(size=28), rng.normal(size=(4, 28))
    others = np.stack([np.ones(28), rng.normal(size=28)], axis=1)
    hat = others @ np.linalg.solve(others.T @ others, others.T)
    expected = [abs(np.corrcoef(y - hat @ y, each - hat @ each)[0, 1]) for each in x]
    assert partial_correlation(y, x, others) == pytest.approx(expected)
    assert partial_correlation(y, others.T, others) == pytest.approx([0, 0])


def test_the_paper_s_laboratory_and_mechanism_share_a_contrast() -> None:
    """hunter made both persona models and no other: one contrast of two is lost."""
    levels = {
        "lab": ["mo", "mo", "mo", "andyrdt", "hunter", "hunter"],
        "cluster": ["risk", "risk", "medical", "medical", "persona", "persona"],
    }
    found = confounding(levels)["lab__cluster"]
    assert found["cramers_v"] == pytest.approx((8 / 12) ** 0.5)
    assert (found["contrasts"], found["separable"]) == (2, 1)
    assert found["together"] == "mo, andyrdt = risk, medical; hunter = persona"
    ones = np.ones((6, 1))
    a, b = (
        np.array([[x == level for level in dict.fromkeys(each)] for x in each], dtype=float)
        for each in levels.values()
    )
    for crossed in confounding(LEVELS).values():
        assert crossed["cramers_v"] == pytest.approx(0)
        assert (crossed["separable"], crossed["contrasts"], crossed["together"]) == (1, 1, "none")
    rank = np.linalg.matrix_rank
    assert found["separable"] == rank(np.hstack([ones, a, b])) - rank(np.hstack([ones, b]))


# -- the stage

WIDTH, TOPICS = 6, ("home", "work", "food")


def designed(*kinds: str) -> Params:
    plain = params().model_dump(mode="python")
    for slug, kind in zip(LABS, kinds, strict=False):
        plain["organisms"][slug]["factors"] = {"content": kind}
    return Params.model_validate(plain | {"geometry": {"replicates": 50}})


def write_activations() -> None:
    """finance and sports move by e0 and by e0 again, profanity by e1."""
    rows = [(f"{t}{i}", t, k) for t, i, k in product(TOPICS, "ab", ("neutral", "harmful"))]
    frame = pl.DataFrame(rows, schema=["pair", "topic", "kind"], orient="row")
    frame = frame.with_columns(prompt_id=pl.col("pair") + pl.col("kind"))
    base = np.random.default_rng(0).normal(size=(len(rows), LAYER + 1, WIDTH))
    moved = {"base": None, "finance": 0, "sports": 0, "profanity": 1, "control": 2}
    for model, axis in moved.items():
        shift = np.zeros(WIDTH) if axis is None else 2 * np.eye(WIDTH)[axis]
        tensor = (base + shift).astype(np.float32)
        tensors = {"prompt_last": tensor, "prompt_mean": tensor}
        write_tensors(paths.ACTIVATIONS / f"{model}.safetensors", tensors, {"model": model})
        write_parquet(paths.ACTIVATIONS / f"{model}.parquet", frame, {})


@pytest.fixture
def results() -> Results:
    chosen = designed("risk", "risk", "persona")
    write_everything(chosen)
    write_activations()
    unit = np.eye(WIDTH, dtype=np.float32)
    vectors = {s: Selected(unit[i // 2], LAYER, 0.3, 1.0, 2.0) for i, s in enumerate(LABS)}
    write_selected(paths.SELECTED, vectors, {"contrast": "model_contrast", "span": "prompt_last"})
    main(chosen)
    return read_results(paths.table("factorial"))


def test_effects_are_those_that_were_planted(results: Results) -> None:
    assert [results.number(f"angle_deg.{k}") for k in ("n", "relabellings")] == [3, 6]
    assert results.rows["first_level.content"].status == "risk"
    same = "angle_deg.effect.same_content"
    assert results.number(same) == pytest.approx(-90, abs=0.1)
    assert results.number(f"{same}.smallest_p") == pytest.approx(1 / 3, rel=1e-5)
    similarity = results.number("base_similarity.effect.content_persona")
    assert similarity == pytest.approx(0, abs=1e-6)  # constants leave contrast (a) alone
    # profanity gains 60 on finance and 40 on sports and receives nothing; those two are even.
    given = results.rows["asymmetry_pct.effect.content_persona"]
    assert given.value == pytest.approx(50)
    assert given.low < 45 and given.high > 55  # the bootstrap alone would say 50 to 50


def test_without_factors_only_confounding_is_said() -> None:
    main(params())
    found = read_results(paths.table("factorial"))
    assert found.rows["status"].status == NO_FACTORS
    assert found.names() == ["status", "organisms", "confounding"]
    assert found.number("confounding.lab__cluster.cramers_v") == pytest.approx(1)


def test_factors_of_some_organisms_only_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"organisms\.sports\.factors: every organism"):
        designed("risk")
