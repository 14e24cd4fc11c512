"""The reduced graph twice, and killed again and again: the end is the same to the byte."""

import random
from collections import Counter
from pathlib import Path

import pytest
import yaml

from tests.e2e.graph import copy_graph
from tests.faults.killing import Repro, planned, told

SEED = 7
KILLS = {
    "organism": 4, "activations": 3, "probe_judge": 3, "baseline_responses": 3,
    "baseline_judgements": 2, "layer_sweep": 4, "responses": 5, "margins": 3, "judgements": 2,
    "checkpoints": 2,
}  # fmt: skip


def talkative(folder: Path) -> Path:
    """The graph in `folder`, whose stages print a line for every unit of progress."""
    copy_graph(folder)
    path = folder / "em_geometry/progress.py"
    text = path.read_text(encoding="utf-8")
    assert "LINE_SECONDS = 15.0" in text
    path.write_text(text.replace("LINE_SECONDS = 15.0", "LINE_SECONDS = 0.0"), encoding="utf-8")
    return folder


def artifacts(folder: Path) -> dict[str, bytes]:
    """Everything that a run leaves, by name: data, metrics and plots."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for top in ("data", "metrics", "plots")
        for path in sorted((folder / top).rglob("*"))
        if path.is_file()
    }


@pytest.mark.faults
def test_killed_again_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also two runs in different places: one path is longer, with spaces and other letters."""
    undisturbed = Repro(talkative(tmp_path / "g"), {})
    undisturbed.run()
    kills = planned(KILLS, told(undisturbed.log), random.Random(SEED))
    folder = talkative(tmp_path / "a longer path, in größeren Buchstaben ж")
    run = Repro(folder, kills)
    run.run()
    struck = Counter(entry.split("@")[0].split()[0] for entry in run.struck)
    with capsys.disabled():
        print(f"\n{struck.total()} kills: {dict(struck)}")
    assert struck.total() >= 25
    assert set(struck) == set(KILLS)
    found, wanted = artifacts(run.folder), artifacts(undisturbed.folder)
    assert not [name for name in found if ".partial" in name]
    assert sorted(found) == sorted(wanted)
    assert [name for name in wanted if found[name] != wanted[name]] == []
    locks = [(r.folder / "dvc.lock").read_text(encoding="utf-8") for r in (run, undisturbed)]
    assert yaml.safe_load(locks[0]) == yaml.safe_load(locks[1])  # what DVC holds of them
