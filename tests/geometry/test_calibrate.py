"""The calibration stage on artifacts with known structure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file, save_file

from em_geometry.errors import UserError
from em_geometry.geometry import calibrate
from em_geometry.geometry.calibration import Measured
from em_geometry.geometry.calibration import calibrate as calibrate_all
from em_geometry.geometry.samples import Prompts
from em_geometry.io.files import check_metrics, write_parquet, write_tensors
from em_geometry.settings.params import Params
from em_geometry.settings.sections import Geometry
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


def select(folder: Path, contrast: str, span: str = "prompt_mean") -> Params:
    """Artifacts whose selected vectors claim another contrast, span and block."""
    params = params_with(folder)
    write_artifacts(folder, params)
    path = folder / "data/vectors/selected.safetensors"
    layers = dict.fromkeys(params.slugs("organism"), 2)
    about = {"layers": json.dumps(layers), "contrast": contrast, "span": span}
    save_file(load_file(path), path, about)
    return params


@pytest.mark.parametrize("contrast", ["prompt_contrast", "interaction"])
def test_contrasts_of_pairs_have_a_row_a_pair(folder: Path, contrast: str) -> None:
    found = run(select(folder, contrast))
    assert (found["rows"], found["contrast"]) == (TOPICS * PAIRS, contrast)


def write_answers(params: Params, bad_questions: int) -> None:
    """Six judged answers to each of eight questions; every other one to the first is bad."""
    rng = np.random.default_rng(0)
    asked = [f"q{q}" for q in range(8) for _ in range(6)]
    for slug in params.slugs("organism"):
        bad = [int(q[1]) < bad_questions and i % 2 == 0 for i, q in enumerate(asked)]
        frame = pl.DataFrame(
            {
                "question_id": asked,
                "aligned": [10.0 if b else 90.0 for b in bad],
                "coherent": [20.0 if i == 47 else 90.0 for i in range(48)],  # in neither group
            }
        )
        write_parquet(Path(f"data/baseline/judgements/{slug}.parquet"), frame, {})
        rows = list(range(1, 48))  # the first answer was empty
        tensor = rng.standard_normal((47, 3, WIDTH)).astype(np.float32)
        tensor[[i - 1 for i in rows if bad[i]], :, 5] += 3.0
        path = Path(f"data/response_activations/{slug}.safetensors")
        write_tensors(path, {"response_mean": tensor}, {"rows": json.dumps(rows)})


def test_the_contrast_of_answers_is_drawn_again_by_question(folder: Path) -> None:
    params = select(folder, "response_contrast", "response_mean")
    write_answers(params, bad_questions=8)
    found = run(params)
    check_metrics(found)
    assert (found["contrast"], found["span"]) == ("response_contrast", "response_mean")
    assert (found["rows"], found["topics"]) == (46, 8)
    assert found["controls"]["status"] == "undefined: no controls"
    cosine = found["statistic"]["similarity"]["cross_mean"]
    assert 0 < cosine["low"] < cosine["high"] < 1
    assert cosine["flips"]["high"] < cosine["observed"]
    assert cosine["flips"]["p"] < 0.01


def test_answers_to_too_few_questions_are_replaced_by_the_model_contrast(folder: Path) -> None:
    params = select(folder, "response_contrast", "response_mean")
    write_answers(params, bad_questions=3)
    found = run(params)
    assert (found["contrast"], found["span"]) == ("model_contrast", "prompt_last")
    assert found["rows"] == 2 * TOPICS * PAIRS


def test_an_organism_without_a_control_has_no_control_contrast(folder: Path) -> None:
    with pytest.raises(UserError, match="no control of its own recipe"):
        run(select(folder, "control_contrast"))


@pytest.mark.parametrize(
    "clusters", [{}, {"x": ["a"], "y": ["b"], "z": ["c"]}, {"x": ["a", "b"], "y": ["c"]}]
)
def test_any_clusters_get_numbers_or_statuses(clusters: dict[str, list[str]]) -> None:
    rows = np.random.default_rng(0).standard_normal((3, 24, 10)) + 0.3
    topics = [f"t{i % 4}" for i in range(24)]
    data = Measured(list("abc"), clusters, Prompts(rows, topics), np.empty((0, 10)), np.array([0]))
    found = calibrate_all(data, Geometry(focus=[], replicates=100), 0)
    check_metrics(json.loads(json.dumps(found.metrics)))
    assert ("status" in found.metrics["core"]) == (len(clusters) < 3)


def test_unpaired_prompts_are_refused() -> None:
    with pytest.raises(UserError, match="one neutral and one harmful"):
        calibrate.pair_rows(["neutral", "harmful", "harmful"], ["a", "a", "b"])
