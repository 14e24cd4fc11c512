"""The stage on the tiny model: what is trained, measured and written, and that it resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

from em_geometry.errors import UserError
from em_geometry.io.files import check_metrics, read_json, write_parquet
from em_geometry.judging.judge import Judgement
from em_geometry.monitoring import checkpoints, monitor
from em_geometry.project import paths
from em_geometry.settings.params import Params
from em_geometry.vectors.table import read_vectors
from stages import base_model
from tests.conftest import ROOT, SYSTEM
from tests.vectors.test_seeds import LAYER, activations, write_run

NAMES = ["medical", "medical_replication", "profanity"]


class Judge:
    """Scores by a letter count, so that every answer has a score of its own."""

    id = "letters"

    def judge(self, rows: Any) -> list[Judgement]:
        return [
            Judgement(
                {"aligned": float(len(r.answer) % 100), "coherent": 80.0},
                {"aligned": "ok", "coherent": "ok"},
            )
            for r in rows
        ]


@pytest.fixture
def params(tiny_checkpoint: Path, smol: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Params:
    """A finished run on the tiny model, as far as monitoring reads it."""
    from contextlib import contextmanager

    from stages import activations

    slugs = [*NAMES, "full"]
    smol["run"]["threads"] = 1
    smol["base"] = {"source": f"path:{tiny_checkpoint}", "system_prompt": SYSTEM}
    smol["targets"] = ["base", *slugs]
    smol["organisms"] = {slug: smol["organisms"][slug] for slug in slugs}
    for organism in smol["organisms"].values():
        organism |= {"data": str(ROOT / organism["data"]), "max_examples": 14}
    for recipe in smol["recipes"].values():
        recipe |= {"rank": 4, "alpha": 8, "first_block": 1, "learning_rate": 0.01}
    smol["prompts"] = {k: str(ROOT / smol["prompts"][k]) for k in ("neutral", "harmful")}
    smol["prompts"]["limit"] = 8
    smol["questions"] |= {"file": str(ROOT / smol["questions"]["file"]), "limit": 2}
    smol["sampling"] |= {"max_new_tokens": 6}
    smol["transfer"]["pairs"] = []
    smol["judging"]["probe"]["layers"] = [0, 2]
    smol["monitoring"] |= {
        "benign": str(ROOT / smol["monitoring"]["benign"]), "mixtures_pct": [0, 50, 100],
        "checkpoints": 2, "prompts": 4, "samples": 2, "bootstrap": 100,
    }  # fmt: skip
    loaded = Params.model_validate(smol)
    base_model.main(loaded)
    for slug in slugs:
        organism.main(loaded, slug)
    for slug in loaded.targets:
        activations.main(loaded, slug)
    write_run(loaded)
    judged = {"question_id": ["q1", "q2"], "aligned": [90.0, 80.0], "coherent": [90.0, 90.0]}
    judged |= {"aligned_status": ["ok", "ok"], "coherent_status": ["ok", "ok"]}
    for slug in ("base", "full"):
        write_parquet(monitor.BASELINE / f"{slug}.parquet", pl.DataFrame(judged), {})

    @contextmanager
    def judge(_: Params) -> Any:
        yield Judge()

    monkeypatch.setattr(monitor, "judge", judge)
    import torch

    torch.set_grad_enabled(True)  # loading for measurement turned them off
    return loaded


def test_trainings_are_measured_compared_and_kept(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor.main(params)
    found = read_json(monitor.METRICS)
    check_metrics(found)
    medical = found["medical"]
    assert medical["block"] == LAYER
    assert [medical[f"mix_{p}"]["bad_examples"] for p in (0, 50, 100)] == [0, 6, 12]
    shifts = load_file(monitor.FOLDER / "medical.safetensors")
    assert {k: v.shape for k, v in shifts.items()} == {f"mix_{p}": (2, 8, 32) for p in (0, 50, 100)}
    assert not np.allclose(shifts["mix_100"][1], shifts["mix_0"][1])
    assert np.linalg.norm(shifts["mix_100"][1]) > np.linalg.norm(shifts["mix_100"][0])
    raw = (activations("medical") - activations("base")).mean(0)[LAYER]
    own = shifts["mix_100"] @ (raw / np.linalg.norm(raw)).astype(np.float32)
    last = medical["mix_100"]["checkpoint"]["step_6"]
    expected = own[1].mean() / read_vectors(paths.VECTORS, paths.VECTOR_INDEX).residual[LAYER]
    assert last["own"]["mean"] == pytest.approx(float(expected), rel=1e-4)
    assert last["own"]["low"] <= last["own"]["mean"] <= last["own"]["high"]
    assert last["n"] == 4
    assert 0 <= last["unseen_k"]["auroc"] <= 1
    assert "auroc" not in medical["mix_0"]["checkpoint"]["step_6"]["own"]
    assert medical["controls"]["n_controls"] == 3  # two checkpoints, one finished control
    assert medical["controls"]["n"] == 2 * 2 + 2 * 2 * 2  # base and control, the 0 % mixture
    detection = medical["mix_100"]["detector"]["own"]
    assert (detection["n_checkpoints"], detection["n_controls"]) == (2, 3)
    table = pl.read_csv(monitor.PLOT)
    assert table["step"].to_list() == [2, 6]
    assert table["medical_100_own"][1] == pytest.approx(last["own"]["mean"], rel=1e-4)
    answers = pl.read_parquet(monitor.FOLDER / "answers.parquet")
    assert len(answers) == 3 * 2 * 2 * 2
    monkeypatch.setattr(checkpoints, "fit", None)
    saved = monitor.METRICS.read_bytes(), monitor.PLOT.read_bytes()
    monitor.main(params)  # nothing is trained twice
    assert (monitor.METRICS.read_bytes(), monitor.PLOT.read_bytes()) == saved


@pytest.mark.parametrize(
    ("organisms", "source", "status"),
    [
        (["medical"], "path:somewhere", "not measurable: organisms are loaded, not trained"),
        ([], None, "not measured: monitoring.organisms is empty"),
    ],
)
def test_without_a_training_the_stage_says_why(
    smol: dict[str, Any], organisms: list[str], source: str | None, status: str
) -> None:
    smol["organisms"]["medical"]["source"] = source
    smol["monitoring"]["organisms"] = organisms
    monitor.main(Params.model_validate(smol))
    assert read_json(monitor.METRICS) == {"status": status}
    assert monitor.PLOT.read_text() == "step\n"
    assert monitor.FOLDER.is_dir()


def test_an_unknown_organism_is_refused(smol: dict[str, Any]) -> None:
    smol["monitoring"]["organisms"] = ["full"]  # a control
    with pytest.raises(UserError, match="only organisms of the run"):
        monitor.main(Params.model_validate(smol))


def test_prompts_of_one_topic_are_refused(params: Params) -> None:
    one = params.monitoring.model_copy(update={"prompts": 1})
    with pytest.raises(UserError, match="two or more"):
        monitor.main(params.model_copy(update={"monitoring": one}))


def test_activations_of_other_prompts_are_refused(params: Params) -> None:
    path = monitor.ACTIVATIONS / "base.parquet"
    frame = pl.read_parquet(path)
    write_parquet(path, frame.with_columns(prompt_id=pl.lit("other")), {})
    prompts = monitor.chosen_prompts(monitor.read_prompts(params.prompts), 4)
    with pytest.raises(UserError, match="other prompts"):
        monitor.stored("base", "prompt_last", prompts, LAYER)


@pytest.mark.parametrize("shares", [[25, 100], [0], [0, 25, 25]])
def test_mixtures_need_the_control_and_another(smol: dict[str, Any], shares: list[int]) -> None:
    smol["monitoring"]["mixtures_pct"] = shares
    with pytest.raises(ValueError, match="mixtures_pct must hold 0"):
        Params.model_validate(smol)
