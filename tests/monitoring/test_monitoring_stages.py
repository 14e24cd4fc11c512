"""The stages on the tiny model: which checkpoints are measured, and what is made of them."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

from em_geometry.io.files import write_parquet
from em_geometry.io.results import read_results
from em_geometry.project import paths
from em_geometry.project.inputs import models
from em_geometry.settings import Params
from em_geometry.steering.margins import measured
from em_geometry.steering.pairs import read_pairs, table, unsteered
from em_geometry.vectors.contrasts import read_vector_table
from stages import checkpoints, monitoring
from tests.conftest import ROOT
from tests.tiny_run import LAYER, NAMES, activations, finished

pytestmark = pytest.mark.usefixtures("workplace")

BENIGN = ["style", "full"]  # full_b is a repeat, no further draw
SLUGS = [*NAMES, "style", "full", "medical_b", "full_b"]
STEPS, LAST = [2, 4], 6


@pytest.fixture
def params(tiny_checkpoint: Path, smol: dict[str, Any]) -> Params:
    """A finished run on the tiny model, as far as monitoring reads it."""
    smol["training"]["checkpoints"] = STEPS
    smol["monitoring"]["organisms"] = ["medical_b"]
    smol["margins"]["pairs"] = str(ROOT / smol["margins"]["pairs"])
    params = finished(tiny_checkpoint, smol, SLUGS, prompts=8)
    pairs = read_pairs(Path(params.margins.pairs))
    trials, known = unsteered(pairs), models(params)
    frames = [
        table(m, pairs, trials, measured(known, known.load(m), pairs, trials, f"margins {m}"))
        for m in ("medical_b", *BENIGN)
    ]
    write_parquet(paths.MARGINS, pl.concat(frames), {})
    return params


def run(params: Params) -> None:
    checkpoints.main(params)
    monitoring.main(params)


def test_checkpoints_are_measured_and_read_against_benign_ones(params: Params) -> None:
    run(params)
    found = read_results(paths.table("monitoring"))
    number = found.number
    assert number("medical_b.block") == LAYER
    null = "medical_b.detector.own.null"
    assert (number("benign"), found.rows[null].status) == (2, "style, full")
    kept = [load_file(paths.checkpoint("medical_b", step))["prompt_last"] for step in STEPS]
    base, end = (activations(m)[:, LAYER] for m in ("base", "medical_b"))
    assert all(each.shape == activations("base").shape for each in kept)
    lengths = [np.linalg.norm(each - base) for each in (*(k[:, LAYER] for k in kept), end)]
    assert 0 < lengths[0] < lengths[1] < lengths[2]
    assert not Path(paths.checkpoint("medical", 2)).exists()  # only what is monitored
    raw = (activations("medical")[:, LAYER] - base).mean(0)  # the vector is the original's
    residual = read_vector_table(paths.VECTORS, paths.VECTOR_INDEX).residual[LAYER]
    scores = {
        m: (activations(m)[:, LAYER] - base) @ raw / np.linalg.norm(raw) / residual
        for m in ("medical_b", *BENIGN)
    }
    key = f"medical_b.checkpoint.step_{LAST}.own"
    others = np.mean([scores[m].mean() for m in BENIGN])
    assert number(f"{key}.mean") == pytest.approx(scores["medical_b"].mean(), rel=1e-4)
    assert number(f"{key}.benign_mean") == pytest.approx(others, rel=1e-4)
    excess = found.rows[key]
    assert excess.low is not None and excess.low < excess.value
    assert 0.333 <= number(f"{key}.p") <= 1  # 1/3, written with six digits
    rows = pl.read_parquet(paths.MONITORING / "margins.parquet")
    frame = pl.read_parquet(paths.MARGINS).filter(kind="misaligned", target="medical_b")
    frame = frame.join(rows, on="pair", how="semi")
    margin = (frame["marked"] - frame["plain"]).mean()
    mean = f"medical_b.checkpoint.step_{LAST}.margin.mean"
    assert number(mean) == pytest.approx(margin, rel=1e-3)
    assert found.rows["medical_b.behaviour.first_step"]
    plot = pl.read_csv(paths.plot("monitoring.csv"))
    assert plot["step"].to_list() == [*STEPS, LAST]
    assert plot["medical_b_own"][2] == pytest.approx(excess.value, rel=1e-3)
    assert rows.group_by("target", "step").len().height == 3 * 2
    files = paths.table("monitoring"), paths.plot("monitoring.csv")
    saved = [path.read_bytes() for path in files]
    run(params)
    assert [path.read_bytes() for path in files] == saved


def test_without_a_training_the_stage_says_why(smol: dict[str, Any]) -> None:
    smol["monitoring"]["organisms"] = []
    run(Params.model_validate(smol))
    found = read_results(paths.table("monitoring"))
    status = "not measured: monitoring.organisms is empty"
    assert {key: e.status for key, e in found.rows.items()} == {"status": status}
    assert paths.plot("monitoring.csv").read_text() == "step\n"
    assert paths.MONITORING.is_dir()
