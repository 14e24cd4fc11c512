"""Long stages killed at any moment: the restart is cheap, and the end is the same to the byte."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
import yaml

from tests.faults.conftest import talkative
from tests.faults.killing import Repro, planned, told

SEED = 7
KILLS = {
    "organism": 4, "activations": 3, "probe_judge": 3, "baseline_responses": 3,
    "baseline_judgements": 2, "response_activations": 3, "layer_sweep": 4, "responses": 5,
    "judgements": 2,
}  # fmt: skip


def artifacts(folder: Path) -> dict[str, bytes]:
    """Everything that a run leaves, by name: data, metrics and plots."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for top in ("data", "metrics", "plots")
        for path in sorted((folder / top).rglob("*"))
        if path.is_file()
    }


@pytest.mark.faults
def test_killed_again_and_again(
    undisturbed: Repro, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also two runs in different places: one path is longer, with spaces and other letters."""
    plan = planned(KILLS, told(undisturbed.log), random.Random(SEED))
    run = Repro(talkative(tmp_path / "a longer path, in größeren Buchstaben ж"), plan)
    run.run()
    by_stage = Counter(entry.split("@")[0].split()[0] for entry in run.struck)
    with capsys.disabled():
        print(f"\n{len(run.struck)} kills: {dict(by_stage)}")
    assert len(run.struck) >= 25
    assert set(by_stage) == set(KILLS)
    found, wanted = artifacts(run.folder), artifacts(undisturbed.folder)
    assert not [name for name in found if ".partial" in name]
    assert sorted(found) == sorted(wanted)
    differing = [name for name in wanted if found[name] != wanted[name]]
    assert not differing
    locks = [
        yaml.safe_load((r.folder / "dvc.lock").read_text(encoding="utf-8"))
        for r in (run, undisturbed)
    ]
    assert locks[0] == locks[1]
