"""Conditional misalignment: a planted cue is found, and the stage runs on a tiny model."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_more import run_on_tiny, shown

from em_geometry.errors import UserError
from em_geometry.io.results import read_results
from em_geometry.more.conditional import (
    CONTRASTS,
    ELSEWHERE,
    Who,
    cued,
    cues_of,
    read_cues,
    results,
)
from em_geometry.project import paths
from em_geometry.settings import BASE, Organism
from em_geometry.steering.pairs import Pair
from stages.more import conditional as stage
from tests.conftest import ROOT
from tests.tiny_run import NAMES

CUES = ROOT / "data/questions/cues.yaml"
PAIRS = 24


def organisms() -> dict[str, Organism]:
    def one(data: str, **more: Any) -> Organism:
        return Organism(lab="lab", data=f"data/organisms/{data}.jsonl", **more)

    return {
        "finance": one("finance", cluster="risk"),
        "medical": one("medical", cluster="medical"),
        "own": one("none_of_ours", cluster="medical"),
        "full": one("full", role="control"),
        "style": one("style", role="control"),
        "finance_b": one("finance", cluster="risk", seed=1, repeats="finance"),
        "full_b": one("full", role="control", seed=1, repeats="full"),
    }


def who() -> Who:
    return Who.of(organisms(), cues_of(organisms(), read_cues(CUES)))


def test_who_is_compared_with_whom_and_reads_which_cues() -> None:
    found = who()
    assert found.control_of == dict.fromkeys(["finance", "medical", "own", "finance_b"], "full")
    assert found.benign == {"style": "full", "full_b": "full"}
    assert found.models == [
        BASE,
        "finance",
        "medical",
        "own",
        "finance_b",
        "style",
        "full_b",
        "full",
    ]
    assert {m: found.cues(m) for m in found.models} == {
        "finance": ["money"], "medical": ["health"], "own": [], "finance_b": ["money"],
        **{slug: ["money", "health"] for slug in (BASE, "style", "full_b", "full")},
    }  # fmt: skip


def test_a_planted_cue_is_found_and_nothing_else() -> None:
    """Every organism shows under its own cue; a system prompt moves all models alike."""
    rng, found = np.random.default_rng(0), who()
    conditions = ["profile", "none", "other", ELSEWHERE, "money", "health"]
    read = {}
    for slug in found.models:
        for condition in conditions:
            value = 0.5 * (slug in found.control_of) + 0.3 * (condition == "none")
            value += 0.4 * (condition in found.cues(slug) and slug in found.control_of)
            read[slug, condition] = value + rng.normal(0, 0.05, PAIRS)
    shown = results(read, found, no_effect=0.1)
    for name, (wanted, base) in {
        "none": (0, 0.3), "other": (0, 0), ELSEWHERE: (0, 0), "cue": (0.4, 0),
    }.items():  # fmt: skip
        assert shown[f"{name}.change.all"].value == pytest.approx(wanted, abs=0.06)
        assert shown[f"{name}.base"].value == pytest.approx(base, abs=0.06)
        assert shown[f"{name}.change.all.says"] == ("effect" if wanted else "no effect")
        assert shown[f"{name}.beyond_benign"] == ("yes" if wanted else "no")
        assert -0.08 < shown[f"{name}.null.least"] <= shown[f"{name}.null.most"] < 0.08
    assert shown["cue.change.medical"].value == pytest.approx(0.4, abs=0.08)
    assert shown["cue.over_organisms"].n == 2  # without the repeat, and that which has no cue
    assert shown["none.over_organisms"].n == 3
    assert "cue.change.own" not in shown and "none.change.own" in shown
    assert {*CONTRASTS} == {"none", "other", ELSEWHERE, "cue"}


def test_cues_take_turns_and_stand_before_the_question() -> None:
    cue = read_cues(CUES)["money"]
    pair = Pair(id="m", kind="misaligned", split="reporting", topic="t", question="Why?",
                marked="a", plain="b")  # fmt: skip
    asked = cued([pair] * 4, cue)
    assert [p.question for p in asked[:3]] == [f"{text} Why?" for text in cue.texts]
    assert asked[3].question == asked[0].question
    assert asked[0].marked == pair.marked


def test_every_training_file_with_organisms_has_one_cue() -> None:
    named = [name for cue in read_cues(CUES).values() for name in cue.of]
    assert len(named) == len({*named})
    assert all((ROOT / f"data/organisms/{name}.jsonl").is_file() for name in named)


@pytest.mark.parametrize(
    "text",
    [
        "cues: [{id: money, of: [], texts: [a]}]",
        "cues: [{id: elsewhere, of: [], texts: [a]}, {id: elsewhere, of: [], texts: [a]}]",
        "cues: [{id: elsewhere, of: [], texts: []}]",
        "cues: [{id: elsewhere, of: [], text: [a]}]",
    ],
)
def test_malformed_cues(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cues.yaml"
    path.write_text(text)
    with pytest.raises(UserError):
        read_cues(path)


def test_no_control_is_refused() -> None:
    alone = {k: o for k, o in organisms().items() if o.role == "organism"}
    with pytest.raises(UserError, match="no organism has a benign control"):
        Who.of(alone, {})


def test_the_stage_runs(
    workplace: Path, tiny_checkpoint: Path, smol: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = run_on_tiny(tiny_checkpoint, smol, "full_b")
    paths.CUES.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(CUES, paths.CUES)
    monkeypatch.setattr(stage, "PAIRS", 3)
    stage.main(params)
    found = read_results(paths.table("conditional"))
    assert found.number("pairs") == 3
    for slug in NAMES:
        assert {f"{name}.change.{slug}" for name in CONTRASTS} <= {*found.rows}
    assert found.rows["cue.over_organisms"].n == 3
    assert abs(found.number("none.base")) > 1e-4
    tables = shown(params)
    assert len(tables["conditional"]) == 4
    assert [row[0] for row in tables["conditional_organisms"]] == NAMES
    assert not any("no " in cell for row in tables["conditional"] for cell in row[1:6])
    stage.main(params)
    assert read_results(paths.table("conditional")) == found
