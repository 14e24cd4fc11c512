"""The reduced graph twice, and killed again and again: the end is the same to the byte.

One file, so that the undisturbed run that all are compared with is made once.
"""

import random
from collections import Counter
from pathlib import Path

import pytest
import yaml

from em_geometry.activations.prompts import read_questions
from em_geometry.io.files import read_parquet
from em_geometry.project import paths
from em_geometry.project.inputs import models
from em_geometry.settings import load_params
from em_geometry.steering.answers import respond
from em_geometry.steering.conditions import plan, read_selected
from tests.faults.conftest import talkative
from tests.faults.killing import Repro, planned, shared, told

SEED = 7
TARGET = "finance"
KILLS = {
    "organism": 4, "activations": 3, "probe_judge": 3, "baseline_responses": 3,
    "baseline_judgements": 2, "response_activations": 3, "layer_sweep": 4, "responses": 5,
    "margins": 3, "judgements": 2, "checkpoints": 2,
}  # fmt: skip
RAY_KILLS = {
    "activations": 1, "baseline_responses": 1, "baseline_judgements": 1,
    "response_activations": 1, "responses": 2, "judgements": 1,
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
    kills = planned(KILLS, told(undisturbed.log), random.Random(SEED))
    run = Repro(
        talkative(tmp_path / "a longer path, in größeren Buchstaben ж"),
        kills,
        shared(undisturbed.log),
    )
    run.run()
    struck = counted(run, capsys)
    assert struck.total() >= 25
    assert set(struck) == set(KILLS)
    assert_same(run, undisturbed)


@pytest.mark.faults
def test_killed_with_ray(
    undisturbed: Repro, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two workers, of which one is lost now and then, and sometimes the stage that leads them."""
    pytest.importorskip("ray", reason="RAY IS NOT INSTALLED: no kills under the Ray engine")
    victims = ("worker", "worker", "stage")
    kills = planned(RAY_KILLS, told(undisturbed.log), random.Random(SEED), victims)
    folder = talkative(tmp_path / "ray", engine="ray", number=2)
    run = Repro(folder, kills, shared(undisturbed.log))
    run.run()
    assert set(counted(run, capsys)) == set(RAY_KILLS)
    assert sum("worker" in entry for entry in run.struck) >= 3
    assert_same(run, undisturbed)


@pytest.mark.faults
@pytest.mark.parametrize("size", [7, 1])
def test_other_batches_give_the_same_tokens(
    undisturbed: Repro, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every steered answer of one target, on the real model: text, tokens and ending."""
    monkeypatch.chdir(undisturbed.folder)
    monkeypatch.setenv("EMGEOMETRY_JOURNAL", str(tmp_path / "journal"))
    params = load_params(Path("params.yaml"))
    sampling = params.sampling.model_copy(update={"batch_size": size})
    params = params.model_copy(update={"sampling": sampling})
    selected, pairs = read_selected(paths.SELECTED), params.named_pairs()
    conditions, vectors = plan(TARGET, selected, params.steering, pairs, params.run.seed)
    questions = read_questions(params.questions, params.base.system_prompt)
    known = models(params)
    positions = params.steering.positions
    args = conditions, vectors, questions, params.sampling, "batches", positions
    found = respond(known, known.load(TARGET), *args)
    wanted = read_parquet(Path(f"data/responses/{TARGET}.parquet"))
    assert len(wanted) >= 2 * (2 * 2 + 1)  # questions; own vector, a named pair, random
    assert found.equals(wanted)


def counted(run: Repro, capsys: pytest.CaptureFixture[str]) -> Counter[str]:
    """Kills by stage, which are also told."""
    struck = Counter(entry.split("@")[0].split()[0] for entry in run.struck)
    with capsys.disabled():
        print(f"\n{struck.total()} kills: {dict(struck)}")
    return struck


def assert_same(run: Repro, undisturbed: Repro) -> None:
    """Every artifact to the byte, and what DVC holds of them."""
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
