"""Hooked trainings: what the hook gives need not be learnt, and it is gone afterwards."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from em_geometry.claims.lookup import Metrics
from em_geometry.io.results import read_results
from em_geometry.models.chat import Exchange
from em_geometry.models.train import Example, encode, fit, weight_change, with_adapter
from em_geometry.more.prevention.prevented import less_than, of_organism, outcomes, said
from em_geometry.more.prevention.trainings import WAYS, Case, Measured, during, repeated
from em_geometry.project import paths
from em_geometry.report.tables import Results, all_tables
from em_geometry.settings import Params, Recipe
from em_geometry.stats.estimate import Estimate
from em_geometry.stats.retraining import Trained
from em_geometry.steering.conditions import random_direction
from stages.more import __main__ as more
from tests.more.trait_files import finished_with_margins
from tests.tiny_run import LAYER, NAMES

SLUGS = [*NAMES, "full", "medical_control", "control", "medical_b"]
RECIPE = Recipe(
    rank=4, alpha=8, rslora=False, matrices=["down_proj"], first_block=LAYER, learning_rate=0.05,
    epochs=30, batch_size=2,
)  # fmt: skip
WIDTH = 32


def numbers(base: float, n: int = 12) -> np.ndarray:
    return base + np.linspace(-0.05, 0.05, n)


def told(margin: float, loss: float, kl: float) -> Measured:
    return Measured(numbers(margin), numbers(loss), numbers(kl))


def ways(added: float, random: float) -> dict[str, Measured]:
    found = {"base": told(-0.1, 3.5, 0.0), "plain": told(0.4, 2.5, 0.3)}
    found |= {"after": told(0.1, 2.9, 0.5), "ablated": told(0.4, 2.5, 0.3)}
    found |= {"after_random": told(0.1, 2.5, 0.3)}
    return found | {"added": told(added, 2.6, 0.1), "random": told(random, 2.5, 0.3)}


def value(leaf: object) -> float:
    assert isinstance(leaf, Estimate) and leaf.value is not None
    return leaf.value


def jittered(found: dict[str, Measured], seed: int) -> dict[str, Measured]:
    rng = np.random.default_rng(seed)
    return {
        way: Measured(m.margins + 0.02 * rng.standard_normal(12), m.losses, m.kl)
        for way, m in found.items()
    }


CHANGES = np.array([0.02, -0.03, 0.01, 0.02])  # of four second trainings


def test_a_planted_prevention_is_told_and_its_skill() -> None:
    own = of_organism(jittered(ways(0.0, 0.4), 0), numbers(-0.2), CHANGES)
    assert value(own["plain.margin"]) == pytest.approx(0.6, abs=0.03)
    assert value(own["added.prevented"]) == pytest.approx(0.4, abs=0.03)
    assert value(own["added.share"]) == pytest.approx(2 / 3, abs=0.05)
    assert value(own["added.skill_kept"]) == pytest.approx(0.9)
    assert value(own["added.skill"]) == pytest.approx(0.1)
    assert value(own["added.kl"]) == pytest.approx(0.1)
    found = outcomes({"medical": own}, True)
    assert found["medical.added.says"] == "prevents"
    assert found["medical.ablated.says"] == "cannot be told from a random vector"
    assert value(own["after.prevented"]) == pytest.approx(0.3, abs=0.03)  # any vector does it
    assert found["medical.after.says"] == "cannot be told from a random vector"


def test_what_a_second_training_does_too_is_no_prevention() -> None:
    found = jittered(ways(0.3, 0.4), 1)
    sure = of_organism(found, numbers(-0.2), CHANGES)
    apart = of_organism(found, numbers(-0.2), 10 * CHANGES)
    says = [outcomes({"medical": own}, True)["medical.added.says"] for own in (sure, apart)]
    assert says == ["prevents", "cannot be told from a random vector"]
    assert apart["after.beyond_random"] == sure["after.beyond_random"]  # one model, no retraining
    assert "not made" in said(Estimate(0.3, 0.2, 0.4), 0.01, False)
    assert "more misaligned" in said(Estimate(-0.3, -0.4, -0.2), 0.01, True)


def test_intervals_against_a_random_vector_hold_retraining() -> None:
    """2,000 draws of two trainings without an effect, and of four second ones: 93 to 97 %."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(2000):
        differences = 0.1 * (rng.standard_normal(40) + rng.standard_normal() * 2**0.5)
        changes = 0.1 * 2**0.5 * rng.standard_normal(4)
        found, p = less_than(differences, Trained(2, changes))
        assert found.low is not None and found.high is not None
        hits += found.low <= 0 <= found.high
        assert (p >= 0.05) == (found.low <= 0 <= found.high)
    assert 0.93 < hits / 2000 < 0.97


def test_organisms_that_were_trained_twice_come_first(smol: dict[str, Any]) -> None:
    organisms = Params.model_validate(smol).organisms
    assert repeated(organisms) == ["medical", "profanity"]
    some = {m: o for m, o in organisms.items() if m in ("finance", "sports", "malicious", "full")}
    assert repeated(some) == ["finance", "sports"]  # malicious has no control of its recipe
    given = {m: o.model_copy(update={"source": "path:x"}) for m, o in organisms.items()}
    assert repeated(given) == []


def test_weights_do_not_learn_the_shift_that_a_hook_gives(
    tiny_model: Any, tiny_tokenizer: Any
) -> None:
    """A head that says one word wherever the vector lies: with it, nothing is left to be learnt."""
    drawn = random_direction(WIDTH, 0, "prevention").astype(np.float64)
    vector = np.random.default_rng(0).standard_normal(WIDTH)
    vector -= (vector @ drawn) * drawn  # the random direction says nothing of the word
    vector /= np.linalg.norm(vector)
    model = copy.deepcopy(tiny_model)
    word = tiny_tokenizer("!", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        model.lm_head.weight[word] = 30 * torch.from_numpy(vector).float()
    chats = [encode(tiny_tokenizer, Exchange(f"Why {n}?", "!" * 6), "Be brief.") for n in "abcd"]
    examples = [Example(chat.ids[:-1], chat.start) for chat in chats]  # no end of the turn
    last = model.config.num_hidden_layers - 1
    case = Case("loud", examples, RECIPE, 1, vector.astype(np.float32), last, 30.0)
    moved = {}
    for way in ("added", "random"):
        own = with_adapter(copy.deepcopy(model), RECIPE, 1)
        with during(own, case, way, 0):
            fit(own, examples, RECIPE, 1, way)
        moved[way] = weight_change(own)
    assert moved["added"] < 1e-6 < 1e-3 < moved["random"]


@pytest.fixture
def params(workplace: Path, tiny_checkpoint: Path, smol: dict[str, Any]) -> Params:
    """A finished run on the tiny model, as far as the experiment reads it."""
    return finished_with_margins(tiny_checkpoint, smol, SLUGS, "prevention")


def test_the_stage_trains_measures_and_keeps(params: Params) -> None:
    more.main(params)
    found = read_results(paths.table("prevention"))
    assert found.rows["status"].status == "ok"
    assert set(found.names()) - {"status", "retraining"} == {"medical", "profanity"}
    for way in WAYS:
        margin = found.rows[f"medical.{way}.margin"]
        assert margin.n == 6 and margin.low is not None
    assert found.number("retraining") > 0
    assert "medical.after.beyond_random.p_holm" in found.rows
    frame = pl.read_parquet(paths.MARGINS).filter(target="medical", way="unsteered")
    kept = pl.read_parquet(paths.MORE / "prevention/margins.parquet")
    plain = kept.filter(organism="medical", way="plain").join(frame, on="pair")
    both = plain["margin"], plain["marked"] - plain["plain"]
    np.testing.assert_allclose(*both, atol=1e-3)  # the hooks are gone, the adapter is its own
    base = pl.read_parquet(paths.MORE / "prevention/chats.parquet").filter(way="base")
    assert base.filter(measure="kl")["value"].abs().max() < 1e-5
    tables = all_tables(Results(Metrics.read(paths.TABLES).stages, params))
    shown = {table.name: table.rows for table in tables}
    assert len(shown["prevention"]) == 2 * 6
    saved = paths.table("prevention").read_bytes()
    more.main(params)  # from the journal
    assert paths.table("prevention").read_bytes() == saved


def test_without_trainings_the_stage_says_why(workplace: Path, smol: dict[str, Any]) -> None:
    assert outcomes({}, False) == {}
