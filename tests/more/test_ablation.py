"""Ablation: planted drops come out as shares of the excess, and the stage runs on a tiny model."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tiny_more import CONTROLS, coin, judge_unsteered, run_on_tiny, shown

from em_geometry.activations.prompts import Question
from em_geometry.errors import UserError
from em_geometry.io.results import read_results
from em_geometry.more.ablation import excess_lost
from em_geometry.more.ablation.answers import answers
from em_geometry.more.ablation.excess_lost import Directions, results
from em_geometry.project import paths
from em_geometry.project.inputs import models
from em_geometry.settings import BASE, Params
from em_geometry.steering.conditions import Selected
from em_geometry.transfer.outcomes import Done, Margins
from stages.more import ablation as stage
from tests.activations.families import our_hooks
from tests.tiny_run import NAMES

RNG = np.random.default_rng(0)
ORGANISMS, EXCESS, PAIRS = ("finance", "sports", "profanity"), 0.6, 20
# Share of the excess that each kind of direction takes, at its own block and at every block.
TAKEN = {
    "own": (0.5, 1.0),
    "transfer": (0.2, 0.4),
    "apart": (0.2, 0.4),
    "benign": (0.02, 0.05),
    "control": (0.1, 0.1),
    "random": (0.0, 0.0),
}


def chosen(slug: str) -> Selected:
    vector = np.random.default_rng(len(slug)).standard_normal(8).astype(np.float32)
    return Selected(vector / np.linalg.norm(vector), 1, 0.3, 2.0, 1.0)


def directions(random: int = 3) -> Directions:
    selected = {slug: chosen(slug) for slug in ORGANISMS}
    controls = {"finance": "plain", "sports": "plain", "profanity": "other"}
    others = {("benign", c): chosen(c) for c in ("plain", "other")}
    benign = {"benign_style": chosen("style"), "benign_full_b": chosen("full_b")}
    return Directions.of(selected, others, benign, controls, random, seed=0)


def planted(out: Directions) -> Margins:
    """Margins in which each ablation takes its share of an excess, and a little of chance."""
    control = RNG.normal(0, 1, PAIRS)
    rest = {(c, "misaligned"): control for c in ("plain", "other")}
    rest |= {(o, "misaligned"): control + EXCESS for o in ORGANISMS}
    done = {}
    for group, cells in out.cells().items():
        for k, way in enumerate(excess_lost.WAYS.values()):
            for target, source in cells:
                fall = TAKEN[group][k] * EXCESS + RNG.normal(0, 0.01, PAIRS)
                done[target, "misaligned", way, source, 1.0] = Done(-fall, 0.1, (1, 2.0))
                for c in {*out.control_of.values()}:  # the control loses nothing
                    none = Done(np.zeros(PAIRS), 0.0, (1, 2.0))
                    done.setdefault((c, "misaligned", way, target, 1.0), none)
    return Margins(rest, done, {})


def test_planted_shares_are_found() -> None:
    out = directions()
    found = results(planted(out), out, no_effect=0.1)
    assert found["excess.all"].value == pytest.approx(EXCESS)
    for group, parts in TAKEN.items():
        for mode, part in zip(excess_lost.WAYS, parts, strict=True):
            share = found[f"{mode}.{group}.share"]
            assert share.value == pytest.approx(100 * part, abs=2)
            assert share.low < share.value < share.high
            assert found[f"{mode}.{group}.damage"] == pytest.approx(0.1)
    assert found["all.own.beyond_random.says"] == "effect"
    assert found["one.control.beyond_random.says"] == "no effect"
    assert found["all.own.beyond_random.p_holm"] < 1e-6
    assert found["all.own.beyond_benign"].value == pytest.approx(0.95 * EXCESS, abs=0.02)
    assert found["all.own.beyond_benign.over_organisms"].n == 3
    assert found["all.own.beyond_apart"].value == pytest.approx(0.6 * EXCESS, abs=0.02)
    assert found["all.own.beyond_apart.says"] == "effect"
    assert not {"all.benign.beyond_benign", "all.apart.beyond_random"} & {*found}
    assert found["all.own.beyond_control.share"].value == pytest.approx(100, abs=2)
    assert abs(found["all.random.least"]) < 0.02 > found["all.random.most"]
    assert found["all.transfer.sports__finance.share"].value == pytest.approx(40, abs=3)


def test_directions_are_as_many_as_said_and_no_two_random_ones_alike() -> None:
    cells = directions(random=2).cells()
    assert {k: len(v) for k, v in cells.items()} == {
        "own": 3, "transfer": 6, "apart": 4, "benign": 6, "control": 3, "random": 6,
    }  # fmt: skip
    judged = directions().sampled("finance")  # sports has the same control
    assert judged["transfer"].tolist() == chosen("profanity").vector.tolist()
    vectors = [directions(2).out_of(t)[s].vector for t, s in cells["random"]]
    assert len({tuple(v) for v in vectors}) == 6
    trials = directions().trials("plain", (0, 1))
    assert [(t.source, t.way) for t in trials[:2]] == [
        ("finance", "ablation"), ("sports", "ablation"),
    ]  # fmt: skip


def test_no_excess_gives_no_share() -> None:
    out = directions()
    table = planted(out)
    same = {key: margin - EXCESS * (key[0] in ORGANISMS) for key, margin in table.rest.items()}
    noise = {k: m + (k[0] in ORGANISMS) * RNG.normal(0, 0.1, PAIRS) for k, m in same.items()}
    found = results(Margins(noise, table.done, {}), out, no_effect=0.1)
    assert found["all.own.share"].status.startswith("undefined: denominator")
    assert found["all.own"].value == pytest.approx(EXCESS, abs=0.02)


def test_organisms_without_a_control_are_refused() -> None:
    none = dict.fromkeys(ORGANISMS, "undefined: no control of recipe x")
    with pytest.raises(UserError, match="no organism has a benign control"):
        Directions.of({slug: chosen(slug) for slug in ORGANISMS}, {}, {}, none, 2, 0)


def test_answers_are_kept_by_the_vector_that_is_taken_out(tiny_params: Params) -> None:
    """Another vector under the same name is another ablation, not what the journal holds."""
    known = models(tiny_params)
    loaded, sampling = known.load(BASE), tiny_params.sampling
    asked, texts = [Question("q", "topic", "plain", "Why?", "")], []
    for axis in (0, 1, 0):
        vector = np.eye(loaded.model.config.hidden_size, dtype=np.float32)[axis]
        frame = answers(known, loaded, {"own": vector}, asked, sampling, 6)
        assert frame["source"].to_list() == ["own"] * 6
        texts.append(frame["text"].to_list())
    assert texts[0] == texts[2] != texts[1]
    assert not our_hooks(loaded.model)


@pytest.fixture
def params(
    workplace: Path, tiny_checkpoint: Path, smol: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Params:
    params = run_on_tiny(tiny_checkpoint, smol)
    judge_unsteered(params)
    monkeypatch.setattr(stage, "judge", coin)
    monkeypatch.setattr(stage, "known_texts", lambda params: set())
    for name, number in (("PAIRS", 4), ("ANSWERS", 2), ("RANDOM", 2)):
        monkeypatch.setattr(stage, name, number)
    return params


def test_the_stage_runs_and_twice_to_the_same_numbers(params: Params) -> None:
    stage.main(params)
    found = read_results(paths.table("ablation"))
    assert (found.number("pairs"), found.number("one.own.directions")) == (4, 3)
    frame = pl.read_parquet(paths.MORE / "ablation/margins.parquet")
    done = frame.filter(pl.col("way") != "unsteered")
    # all vectors, benign ones, a control and two random directions, at one block and at all
    assert done.filter(target="medical").height == 4 * 2 * (3 + 3 + 1 + 2)
    assert {*done["target"]} == {*NAMES, *CONTROLS}
    rest = frame.filter(target="medical", way="unsteered")
    taken = done.filter(target="medical", source="medical", way="ablation_everywhere")
    both = taken.join(rest, on="pair", suffix="_rest")
    fall = (both["marked_rest"] - both["plain_rest"] - both["marked"] + both["plain"]).mean()
    assert found.number("all.own.medical__medical") == pytest.approx(fall, rel=1e-4)
    answers = pl.read_parquet(paths.MORE / "ablation/judgements/medical.parquet")
    assert answers.group_by("source").len()["len"].to_list() == [4, 4, 4, 4]
    assert answers["text"].n_unique() > 2
    assert found.rows["judged.em_turner.own.fall"].n == 4  # of each organism
    assert "judged.coherent.random" in found
    rates = [found.rows[f"judged.coherent.{source}"] for source in ("none", "own", "benign")]
    assert all(0 <= (e.low or 0) <= (e.high or 0) <= 100 for e in rates)
    tables = shown(params)
    assert len(tables["ablation"]) == 6
    assert len(tables["ablation_judged"]) == 3 * 4  # three rates, four directions
    stage.main(params)
    assert read_results(paths.table("ablation")) == found
