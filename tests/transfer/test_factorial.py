"""Effects of a design: planted ones are found, absent ones are not, aliased ones are named.

First on values, then by the stage on invented activations and judgements.
"""

from itertools import product

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from em_geometry.io.files import write_parquet, write_tensors
from em_geometry.io.results import Results, as_estimate, read_results
from em_geometry.project import paths
from em_geometry.settings import Params
from em_geometry.stats import permutation
from em_geometry.stats.estimate import Estimate
from em_geometry.steering.conditions import Selected, write_selected
from em_geometry.transfer.factors import (
    ONE_TEXT_EACH,
    Columns,
    Design,
    Units,
    against_first,
    confounding,
    effects,
    jackknifed,
    leads,
    pairs,
    partial_correlation,
    same,
    singles,
    verdicts,
)
from stages.factorial import NO_FACTORS, main
from tests.invented import LABS, LAYER, params, write_margins

pytestmark = pytest.mark.usefixtures("workplace")

CELLS = list(product(("m", "p"), ("n", "b"), ("h", "o")))
LEVELS = {k: [c[i] for c in CELLS] for i, k in enumerate(("content", "range", "recipe"))}
OWN = Design(LEVELS, [str(i) for i in range(8)])  # a text each
SHARED = Design(LEVELS, [content + spread for content, spread, _ in CELLS])  # two recipes a text


def found_in(
    values: np.ndarray, columns: Columns, units: Units, design: Design
) -> tuple[dict[str, permutation.Tested], float]:
    none = jackknifed(values, np.full((2, len(values)), np.nan))
    found, _, explained = effects(values, none, columns, units, design, seed=0)
    return found, explained


def pair_values(
    content: float, recipe: float, spread: float, seed: int = 0, text: float = 0.0
) -> np.ndarray:
    """60 degrees, what is planted, noise of pairs, and what every text does of its own."""
    columns, units, rng = same(LEVELS), pairs(8), np.random.default_rng(seed)
    rows, cols = units.rows, units.columns
    planted = content * columns["same_content"] + recipe * columns["same_recipe"]
    texts = np.array([[t == u for u in SHARED.texts] for t in SHARED.texts])
    own = np.repeat(rng.normal(size=(4, 4)), 2, 0).repeat(2, 1) * text
    own = (own + own.T) * ~texts
    return np.asarray(60.0 + (planted + own)[rows, cols] + spread * rng.normal(size=28))


def test_planted_effects_on_pairs_are_recovered() -> None:
    found, explained = found_in(pair_values(-20.0, 5.0, 0.5), same(LEVELS), pairs(8), OWN)
    for name, planted in (("content", -20), ("recipe", 5), ("range", 0)):
        effect = found[f"same_{name}"]
        assert effect.estimate.value == pytest.approx(planted, abs=0.8)
        assert effect.estimate.low is not None and effect.estimate.high is not None
        assert effect.estimate.low - 0.3 < planted < effect.estimate.high + 0.3
        assert (effect.p < 0.01) == bool(planted)
    assert explained > 0.98


def test_what_differs_between_texts_is_tested_by_texts() -> None:
    """Four texts can change places in 24 ways, of which four leave content's column alone."""
    found, _ = found_in(pair_values(-20.0, 5.0, 0.1), same(LEVELS), pairs(8), SHARED)
    content, recipe = found["same_content"], found["same_recipe"]
    assert (SHARED.between(), SHARED.texts_a_cell()) == (["content", "range"], 1)
    assert OWN.texts_a_cell() == 1
    assert content.smallest_p == pytest.approx(4 / 24) and (content.p or 0) >= 4 / 24
    # recipes change places in some of the four texts; all four at once is nothing
    assert recipe.smallest_p == recipe.p == pytest.approx(2 / 16)
    two = Design({k: each * 2 for k, each in LEVELS.items()}, [*SHARED.texts, *"ABCDEFGH"])
    assert two.texts_a_cell() == 3


def test_orders_keep_texts_together_or_within() -> None:
    swapped, mixed = (SHARED.orders(factor, 0) for factor in ("content", "recipe"))
    assert len(swapped) == 24 and len(mixed) == 16
    for orders in (swapped, mixed):
        assert orders[0].tolist() == list(range(8))
        assert (np.sort(orders) == np.arange(8)).all()
    texts, recipes = np.array(SHARED.texts), np.array(LEVELS["recipe"])
    assert all((recipes[order] == recipes).all() for order in swapped)
    assert all((texts[order] == texts).all() for order in mixed)
    many = Design({"kind": ["a", "b"] * 6}, [str(i) for i in range(12)])
    orders = many.orders("kind", 0)
    assert len(orders) == 20_001 and (np.sort(orders) == np.arange(12)).all()
    assert (orders == many.orders("kind", 0)).all()


def test_a_text_s_own_effect_feigns_no_content() -> None:
    """Nothing is planted but what each pair of texts does: organisms are many, texts are four."""
    covered, alarms = [], []
    for seed in range(60):
        values = pair_values(0.0, 0.0, 0.1, seed, text=3.0)
        found = found_in(values, same(LEVELS), pairs(8), SHARED)[0]["same_content"]
        assert found.estimate.low is not None and found.estimate.high is not None
        covered.append(found.estimate.low <= 0 <= found.estimate.high)
        rows = {"a.effect.x": found.estimate, "a.effect.x.p": found.p or 1.0}
        said = verdicts(rows | {"a.effect.x.smallest_p": found.smallest_p or 1.0}, 0.05)
        alarms.append(as_estimate(said["a.effect.x.verdict"]).status == "evidence")
    assert np.mean(covered) >= 0.85
    assert not any(alarms)


def test_intervals_of_prompts_stand_beside_those_of_texts() -> None:
    values, rng = pair_values(-20.0, 5.0, 0.0), np.random.default_rng(0)
    without = values + 0.01 * rng.normal(size=(24, 28))
    interval, design = jackknifed(values, without), OWN
    found, given, _ = effects(values, interval, same(LEVELS), pairs(8), design, 0)
    assert given["same_content"].value == found["same_content"].estimate.value
    assert given["same_content"].width > 0.01 > (found["same_content"].estimate.width or 0)


def test_p_never_falls_below_the_smallest_attainable() -> None:
    found, _ = found_in(pair_values(-20.0, 0.0, 0.0), same(LEVELS), pairs(8), OWN)
    effect = found["same_content"]
    # 2^3 swaps of levels and the exchange of the two other factors leave the column alone.
    assert effect.smallest_p == pytest.approx(16 / 40320)
    assert (effect.p or 0) >= (effect.smallest_p or 1)
    means = np.array([1.0] * 4 + [0.0] * 4)
    found, _ = found_in(means, against_first(LEVELS), singles(8), OWN)
    assert found["content_p"].estimate.value == pytest.approx(-1)
    assert found["content_p"].p == found["content_p"].smallest_p == pytest.approx(2 / 70)


def test_p_is_uniform_where_nothing_has_an_effect() -> None:
    """By recipes within texts, whose sixteen orders are quick to try."""
    rng = np.random.default_rng(1)
    found = [
        found_in(rng.normal(size=28), same(LEVELS), pairs(8), SHARED)[0]["same_recipe"].p
        for _ in range(400)
    ]
    assert np.mean(found) == pytest.approx(0.56, abs=0.06)  # eight steps from 1/8 to 1
    assert np.mean(np.array(found) <= 0.13) == pytest.approx(1 / 8, abs=0.05)


def test_a_strong_factor_does_not_hide_or_feign_another() -> None:
    found = [
        found_in(pair_values(-50.0, 0.0, 1.0, seed), same(LEVELS), pairs(8), SHARED)[0]
        for seed in range(200)
    ]
    p = np.array([each["same_recipe"].p for each in found])
    assert np.mean(p <= 0.13) == pytest.approx(1 / 8, abs=0.07)


def test_directions_have_no_mean_and_recover_what_leads() -> None:
    given = np.array([3.0 if c == "p" else 0.0 for c in LEVELS["content"]])
    units = pairs(8, constant=False)
    values = given[units.rows] - given[units.columns]
    found, explained = found_in(values, leads(LEVELS), units, OWN)
    assert found["content_p"].estimate.value == pytest.approx(3)
    assert found["recipe_o"].estimate.value == pytest.approx(0, abs=1e-9)
    assert explained == pytest.approx(1)
    turned, _ = found_in(-values, leads(LEVELS), units, OWN)
    assert turned["content_p"].estimate.value == pytest.approx(-3)
    assert turned["content_p"].p == pytest.approx(found["content_p"].p)


def test_aliased_factors_get_a_status_that_names_the_other() -> None:
    levels = {"lab": list("aaaabbbb"), "kind": list("xxxxyyyy"), "range": list("nbnbnbnb")}
    found, _ = found_in(np.arange(28.0), same(levels), pairs(8), Design(levels, OWN.texts))
    assert found["same_lab"].estimate.status == "aliased: cannot be told apart from same_kind"
    assert found["same_lab"].p is None
    assert found["same_range"].estimate.status == "ok"


def test_verdicts_are_by_holm_s_p() -> None:
    rows = {}
    for i, p in enumerate((0.001, 0.02, 0.6)):
        key = f"angle_deg.effect.f{i}"
        rows |= {key: Estimate(2.0, 1.0, 3.0), f"{key}.p": p, f"{key}.smallest_p": 0.0004}
    rows |= {"angle_deg.effect.gone": Estimate.undefined("aliased"), "angle_deg.n": 28}
    found = verdicts(rows, 0.03)
    assert found["angle_deg.effect.f1.p_holm"] == pytest.approx(0.04)
    said = [found[f"angle_deg.effect.f{i}.verdict"] for i in range(3)]
    assert said == ["evidence", "cannot tell", "cannot tell"]


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
        plain["organisms"][slug] |= {"factors": {"content": kind}, "data": f"{slug}.jsonl"}
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
    texts = pl.DataFrame({"text_id": ["a", "b"], "topic": ["finance", "sports"]})
    write_parquet(paths.ACTIVATIONS / "base_texts.parquet", texts, {})  # no span of them is used


@pytest.fixture
def results() -> Results:
    chosen = designed("risk", "risk", "persona")
    write_margins([*LABS], np.array([[0, 0, 0], [0, 0, 0], [0.6, 0.4, 0]]))
    write_activations()
    unit = np.eye(WIDTH, dtype=np.float32)
    vectors = {s: Selected(unit[i // 2], LAYER, 0.3, 1.0, 2.0) for i, s in enumerate(LABS)}
    write_selected(paths.SELECTED, vectors, {"contrast": "model_contrast", "span": "prompt_last"})
    main(chosen)
    return read_results(paths.table("factorial"))


def test_effects_are_those_that_were_planted(results: Results) -> None:
    assert results.number("angle_deg.n") == 3
    assert [results.number(k) for k in ("texts", "texts_a_cell")] == [3, 1]
    assert results.rows["first_level.content"].status == "risk"
    same = "angle_deg.effect.same_content"
    assert results.number(same) == pytest.approx(-90, abs=0.1)
    assert results.number(f"{same}.smallest_p") == pytest.approx(1 / 3, rel=1e-5)
    similarity = results.number("base_similarity.effect.content_persona")
    assert similarity == pytest.approx(0, abs=1e-6)  # constants leave contrast (a) alone
    # profanity gains .6 on finance and .4 on sports and receives nothing; those two are even.
    key = "asymmetry.effect.content_persona"
    assert results.number(key) == pytest.approx(0.5)
    given = results.rows[f"{key}.{ONE_TEXT_EACH}"]
    assert results.rows[f"{key}.verdict"].status.startswith("no evidence possible")
    assert given.low == given.high == pytest.approx(0.5)  # questions do not differ, texts do


def test_without_factors_only_confounding_is_said() -> None:
    main(params())
    found = read_results(paths.table("factorial"))
    assert found.rows["status"].status == NO_FACTORS
    assert found.names() == ["status", "organisms", "confounding"]
    assert found.number("confounding.lab__cluster.cramers_v") == pytest.approx(1)


def test_factors_of_some_organisms_only_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"organisms\.sports\.factors: every organism"):
        designed("risk")
