"""The calibration stage on artifacts with known structure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file, save_file

from stages.common.artifacts import check_metrics
from stages.common.errors import UserError
from stages.common.params import Params
from stages.common.sections import Geometry
from stages.geometry import calibrate
from stages.geometry.calibration import Differences
from stages.geometry.calibration import calibrate as calibrate_all
from tests.geometry.synthetic import PAIRS, TOPICS, WIDTH, params_with, write_artifacts


def run(params: Params) -> dict[str, Any]:
    calibrate.main(params)
    found: dict[str, Any] = json.loads(Path("metrics/calibration.json").read_text())
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_stage_writes_finite_metrics_and_wide_plots(folder: Path) -> None:
    params = params_with(folder)
    write_artifacts(folder, params, core=0.5)
    found = run(params)
    check_metrics(found)
    assert (found["rows"], found["topics"]) == (2 * TOPICS * PAIRS, TOPICS)
    assert (found["width"], found["massive_dimensions"]) == (WIDTH, 0)
    assert 1 < found["effective_dimension"]["covariance"] <= WIDTH
    row = found["statistic"]["similarity"]["separation"]
    assert row["low"] < row["observed"] < row["high"]
    assert row["partitions"]["smallest_p"] == pytest.approx(1 / 15)
    assert row["partitions"]["p"] == pytest.approx(1 / 15)
    assert 0 < row["covariance"]["p"] < 0.05
    assert all(r > 0.9 for r in found["reliability"].values())
    assert found["coclustering"]["medical__medical_replication"] == 1.0
    assert found["controls"]["smallest_p"] == pytest.approx(1 / 10)
    assert 0 < found["core"]["low"] < found["core"]["observed"] < found["core"]["high"] < 1
    assert found["power"]["test1"]["verdict_paper"] in (
        "discriminates",
        "cannot discriminate",
        "reversed",
    )
    power = pl.read_csv("plots/power.csv")
    assert power["share"][0] == 0.0 and power["share"].is_sorted()
    nulls = pl.read_csv("plots/nulls.csv")
    assert "covariance_without_massive_p" in nulls.columns
    assert nulls["statistic"].n_unique() == len(nulls)


def test_two_runs_give_the_same_bytes(folder: Path) -> None:
    params = params_with(folder)
    write_artifacts(folder, params)
    assert run(params) == run(params)


def select(folder: Path, contrast: str) -> Params:
    """Artifacts whose selected vectors claim another contrast, span and block."""
    params = params_with(folder)
    write_artifacts(folder, params)
    path = folder / "data/vectors/selected.safetensors"
    layers = dict.fromkeys(params.slugs("organism"), 2)
    about = {"layers": json.dumps(layers), "contrast": contrast, "span": "prompt_mean"}
    save_file(load_file(path), path, about)
    return params


@pytest.mark.parametrize("contrast", ["prompt_contrast", "interaction", "response_contrast"])
def test_every_contrast_is_calibrated_or_replaced(folder: Path, contrast: str) -> None:
    found = run(select(folder, contrast))
    paired = contrast in ("prompt_contrast", "interaction")
    assert found["rows"] == TOPICS * PAIRS * (1 if paired else 2)
    assert found["contrast"] == ("model_contrast" if contrast[:4] == "resp" else contrast)


def test_an_organism_without_a_control_has_no_control_contrast(folder: Path) -> None:
    with pytest.raises(UserError, match="no control of its own recipe"):
        run(select(folder, "control_contrast"))


@pytest.mark.parametrize(
    "clusters", [{}, {"x": ["a"], "y": ["b"], "z": ["c"]}, {"x": ["a", "b"], "y": ["c"]}]
)
def test_any_clusters_get_numbers_or_statuses(clusters: dict[str, list[str]]) -> None:
    rows = np.random.default_rng(0).standard_normal((3, 24, 10)) + 0.3
    topics = [f"t{i % 4}" for i in range(24)]
    data = Differences(
        list("abc"), clusters, rows, topics, np.empty((0, 10)), np.array([0], dtype=np.int64)
    )
    found = calibrate_all(data, Geometry(focus=[], replicates=100), 0)
    check_metrics(json.loads(json.dumps(found.metrics)))
    assert ("status" in found.metrics["core"]) == (len(clusters) < 3)


def test_unpaired_prompts_are_refused() -> None:
    with pytest.raises(UserError, match="one neutral and one harmful"):
        calibrate.pair_rows(["neutral", "harmful", "harmful"], ["a", "a", "b"])
