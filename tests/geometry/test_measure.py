"""The geometry stage on artifacts with known structure."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from em_geometry.errors import UserError
from em_geometry.geometry import measure
from em_geometry.geometry.cluster_angle import cluster_angle
from em_geometry.geometry.external import read_directions
from em_geometry.geometry.gram import unit_gram
from em_geometry.io.files import check_metrics, read_tensors, write_tensors
from tests.geometry.synthetic import LAYERS, WIDTH, params_with, write_artifacts


@pytest.fixture
def metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.chdir(tmp_path)
    params = params_with(tmp_path)
    write_artifacts(tmp_path, params)
    measure.main(params)
    found: dict[str, object] = json.loads((tmp_path / "metrics/geometry.json").read_text())
    return found


def test_metrics_hold_the_battery_and_its_sensitivity(metrics: dict) -> None:  # type: ignore[type-arg]
    check_metrics(metrics)
    assert metrics["cosine"]["medical__medical_replication"] > 0.5
    assert metrics["clusters"]["silhouette_k"] == 3
    assert metrics["selected"]["choice"] == "model_contrast.prompt_last"
    assert metrics["selected"]["norm"]["finance"] > 0
    assert "a__b_raw_deg" not in metrics["cluster_angle"]
    assert "medical__persona_raw_deg" in metrics["cluster_angle"]
    angle = metrics["cluster_angle"]["medical__persona_deg"]
    beside = metrics["sensitivity"]["model_contrast"]["prompt_last"]["cluster_angle"]
    assert beside["medical__persona_deg"] == pytest.approx(angle, abs=1e-3)
    assert (
        "medical_replication" in metrics["sensitivity"]["control_contrast"]["prompt_mean"]["status"]
    )
    assert metrics["sensitivity"]["without_massive"]["verdict"]["count"] >= 0
    assert metrics["sensitivity"]["per_model"]["verdict"]["count"] >= 0
    test1 = metrics["survives"]["verdict_test1"]
    assert test1["selected"] == metrics["verdict"]["test1"]
    assert test1["contrasts"].endswith("of 6")
    assert test1["blocks"].endswith(f"of {LAYERS}")
    assert test1["per_model"] == test1["without_massive"] == "1 of 1"


def test_plots_are_wide(metrics: dict) -> None:  # type: ignore[type-arg]
    trace = pl.read_csv("plots/layer_trace.csv")
    assert trace.columns == ["layer", "risk__medical", "risk__persona", "medical__persona"]
    assert trace["layer"].to_list() == list(range(LAYERS))
    cosines = pl.read_csv("plots/cosines.csv")
    assert cosines.shape == (6, 7)
    for pair, value in metrics["cosine"].items():
        a, b = pair.split("__")
        assert cosines.filter(pl.col("name") == a)[b].item() == pytest.approx(value, abs=1e-5)
    assert pl.read_csv("plots/pca.csv").columns == ["name", "pc1", "pc2", "pc3"]
    assert pl.read_csv("plots/mds.csv").shape == (6, 5)
    assert "undefined" in " ".join(pl.read_csv("plots/sensitivity.csv")["status"])


def test_massive_dimensions_are_the_largest() -> None:
    rows = pl.DataFrame({"a": [1.0, -9.0], "b": [0.0, 1.0], "c": [5.0, 6.0]}).to_numpy()
    assert measure.massive_dimensions(rows, 0.34).tolist() == [2]
    assert measure.massive_dimensions(rows, 0.0).tolist() == []


def test_dimensions_that_are_massive_in_the_base_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = params_with(tmp_path, massive_share=0.021)
    write_artifacts(tmp_path, params)
    base = measure.base_activations(params.activations.spans, "response_mean", 1)
    assert measure.massive_dimensions(base, 0.021).tolist() == [0]
    measured = measure.read_measured(params)
    found = measure.sensitivity(measured, params.geometry, np.array([0]))
    left = unit_gram(measured.unit[:, 1:])
    angle = found["without_massive"]["cluster_angle.medical__persona_deg"]
    assert angle == pytest.approx(float(cluster_angle(left, [2, 3], [4, 5])))


def test_vectors_of_other_organisms_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = params_with(tmp_path)
    with pytest.raises(UserError, match="file not found"):
        measure.main(params)
    write_artifacts(tmp_path, params)
    path = tmp_path / "data/vectors/selected.safetensors"
    (tmp_path / "data/vectors/vectors.safetensors").write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="not those of the organisms"):
        measure.main(params)


def test_further_directions_join_the_battery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = params_with(tmp_path)
    write_artifacts(tmp_path, params)
    vectors, _ = read_tensors(measure.SELECTED)
    others = {"same": 7.0 * vectors["finance"], "against": -vectors["medical"]}
    write_tensors(tmp_path / "data/external/sae.safetensors", others, {})
    measure.main(params)
    found = json.loads((tmp_path / "metrics/geometry.json").read_text())
    check_metrics(found)
    external = found["external"]
    assert external["names"] == "against, same"
    assert external["cosine"]["finance__same"] == pytest.approx(1.0, abs=1e-6)
    assert external["cosine"]["medical__against"] == pytest.approx(-1.0, abs=1e-6)
    assert external["cosine"]["against__same"] == pytest.approx(
        -found["cosine"]["finance__medical"], abs=1e-6
    )
    assert external["verdict"] == found["verdict"]  # they are in no cluster
    assert "same" not in str(found["pca"])


@pytest.mark.parametrize(
    ("name", "vector"),
    [
        ("narrow", np.ones(5)),
        ("table", np.ones((2, WIDTH))),
        ("nan", np.full(WIDTH, np.nan)),
        ("zero", np.zeros(WIDTH)),
        ("finance", np.ones(WIDTH)),
        ("a__b", np.ones(WIDTH)),
    ],
)
def test_a_direction_that_cannot_be_used_is_named(
    tmp_path: Path, name: str, vector: np.ndarray
) -> None:
    save_file({name: vector.astype(np.float32)}, tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match=rf"bad\.safetensors: {name}"):
        read_directions(tmp_path, WIDTH, ["finance"])


def test_a_folder_of_directions_must_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"vectors\.external"):
        read_directions(tmp_path / "none", WIDTH, [])
