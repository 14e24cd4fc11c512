"""The stage on the tiny model: what is trained, measured and written, and that it resumes."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

from em_geometry.activations.prompts import read_prompts
from em_geometry.errors import UserError
from em_geometry.io.files import write_parquet
from em_geometry.io.results import read_results
from em_geometry.judging.judge import Judgement
from em_geometry.monitoring import checkpoints as library
from em_geometry.project import paths
from em_geometry.settings import Params
from em_geometry.vectors.contrasts import read_vector_table
from stages import checkpoints, monitoring
from tests.conftest import ROOT
from tests.tiny_run import LAYER, NAMES, activations, finished

pytestmark = pytest.mark.usefixtures("workplace")


class Judge:
    """Scores by a letter count, so that every answer has a score of its own."""

    id = "letters"

    def judge(self, rows: Any, label: str) -> list[Judgement]:
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
    smol["questions"] |= {"file": str(ROOT / smol["questions"]["file"]), "limit": 2}
    smol["sampling"] |= {"max_new_tokens": 6}
    smol["monitoring"] |= {
        "benign": str(ROOT / smol["monitoring"]["benign"]), "mixtures_pct": [0, 50, 100],
        "checkpoints": 2, "prompts": 4, "samples": 2, "bootstrap": 100,
    }  # fmt: skip
    loaded = finished(tiny_checkpoint, smol, [*NAMES, "full"], prompts=8)
    judged = {"question_id": ["q1", "q2"], "aligned": [90.0, 80.0], "coherent": [90.0, 90.0]}
    judged |= {"aligned_status": ["ok", "ok"], "coherent_status": ["ok", "ok"]}
    for slug in ("base", "full"):
        write_parquet(paths.BASELINE_JUDGEMENTS / f"{slug}.parquet", pl.DataFrame(judged), {})
    monkeypatch.setattr(checkpoints, "judge", lambda params: nullcontext(Judge()))
    return loaded


def run(params: Params) -> None:
    checkpoints.main(params)
    monitoring.main(params)


def test_trainings_are_measured_compared_and_kept(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(params)
    found = read_results(paths.table("monitoring"))
    number = found.number
    assert number("medical.block") == LAYER
    assert [number(f"medical.mix_{p}.bad_examples") for p in (0, 50, 100)] == [0, 6, 12]
    kept = load_file(paths.MONITORING / "medical.safetensors")
    assert {k: v.shape for k, v in kept.items()} == {f"mix_{p}": (2, 8, 32) for p in (0, 50, 100)}
    plan, _ = library.read_trajectories(paths.MONITORING / "medical.safetensors")
    base = library.stored(paths.ACTIVATIONS, "base", plan, LAYER)
    shifts = {name: tensor - base for name, tensor in kept.items()}
    assert not np.allclose(shifts["mix_100"][1], shifts["mix_0"][1])
    assert np.linalg.norm(shifts["mix_100"][1]) > np.linalg.norm(shifts["mix_100"][0])
    raw = (activations("medical") - activations("base")).mean(0)[LAYER]
    own = shifts["mix_100"] @ (raw / np.linalg.norm(raw))
    residual = read_vector_table(paths.VECTORS, paths.VECTOR_INDEX).residual
    last = "medical.mix_100.checkpoint.step_6"
    mean = found.rows[f"{last}.own"]
    assert mean.value == pytest.approx(float(own[1].mean() / residual[LAYER]), rel=1e-4)
    assert mean.low is not None and mean.high is not None
    assert mean.low <= mean.value <= mean.high
    assert number(f"{last}.n") == 4
    assert 0 <= number(f"{last}.unseen_k.auroc") <= 1
    assert "medical.mix_0.checkpoint.step_6.own.auroc" not in found
    assert number("medical.controls.n_controls") == 3  # two checkpoints, one finished control
    # base and control, the 0 % mixture
    assert number("medical.controls.n") == 2 * 2 + 2 * 2 * 2
    detector = "medical.mix_100.detector.own"
    assert [number(f"{detector}.n_{k}") for k in ("checkpoints", "controls")] == [2, 3]
    table = pl.read_csv(paths.plot("monitoring.csv"))
    assert table["step"].to_list() == [2, 6]
    assert table["medical_100_own"][1] == pytest.approx(mean.value, rel=1e-4)
    answers = pl.read_parquet(paths.MONITORING / "answers.parquet")
    assert len(answers) == 3 * 2 * 2 * 2
    monkeypatch.setattr(library, "fit", None)
    files = paths.table("monitoring"), paths.plot("monitoring.csv")
    saved = [path.read_bytes() for path in files]
    run(params)  # nothing is trained twice
    assert [path.read_bytes() for path in files] == saved


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
    run(Params.model_validate(smol))
    found = read_results(paths.table("monitoring"))
    assert {key: e.status for key, e in found.rows.items()} == {"status": status}
    assert paths.plot("monitoring.csv").read_text() == "step\n"
    assert paths.MONITORING.is_dir()


def test_an_unknown_organism_is_refused(smol: dict[str, Any]) -> None:
    smol["monitoring"]["organisms"] = ["full"]  # a control
    with pytest.raises(UserError, match="only organisms of the run"):
        checkpoints.main(Params.model_validate(smol))


def test_prompts_of_one_topic_are_refused(smol: dict[str, Any]) -> None:
    smol["prompts"] = {k: str(ROOT / smol["prompts"][k]) for k in ("neutral", "harmful")}
    prompts = read_prompts(Params.model_validate(smol).prompts)
    with pytest.raises(UserError, match="two or more"):
        library.chosen_prompts(prompts, 1)


def test_activations_of_other_prompts_are_refused(smol: dict[str, Any]) -> None:
    smol["prompts"] = {k: str(ROOT / smol["prompts"][k]) for k in ("neutral", "harmful")}
    prompts = library.chosen_prompts(read_prompts(Params.model_validate(smol).prompts), 4)
    plan = library.Plan({}, "model_contrast.prompt_last", "prompt_last", prompts, 4)
    frame = pl.DataFrame({"prompt_id": ["other"]})
    write_parquet(paths.ACTIVATIONS / "base.parquet", frame, {})
    with pytest.raises(UserError, match="other prompts"):
        library.stored(paths.ACTIVATIONS, "base", plan, LAYER)
