"""The stages geometry and calibration on artifacts with known structure."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from em_geometry.errors import UserError
from em_geometry.geometry import references
from em_geometry.geometry.calibration import calibrate_rows
from em_geometry.geometry.grams import PromptRows, massive_dimensions
from em_geometry.geometry.methods import cluster_angle, unit_gram
from em_geometry.geometry.vector_sets import read_directions
from em_geometry.io.files import read_json, write_tensors
from em_geometry.io.results import Results, flatten, read_results
from em_geometry.project import paths
from em_geometry.settings import Geometry, Params
from em_geometry.steering.conditions import read_selected, write_selected
from em_geometry.vectors.evidence import pair_rows
from stages import calibration, geometry
from tests.geometry.synthetic import LAYERS, PAIRS, TOPICS, WIDTH, params_with, write_artifacts

ROWS = 2 * TOPICS * PAIRS


@pytest.fixture
def folder(workplace: Path) -> Path:
    write_artifacts(workplace, params_with(workplace))
    return workplace


def measured(params: Params) -> Results:
    geometry.main(params)
    return read_results(paths.table("geometry"))


def calibrated(params: Params) -> Results:
    calibration.main(params)
    return read_results(paths.table("calibration"))


def test_geometry_has_the_battery_and_its_sensitivity(folder: Path) -> None:
    found = measured(params_with(folder))
    assert found.number("cosine.medical__medical_replication") > 0.5
    assert found.number("clusters.silhouette_k") == 3
    assert found.rows["selected.choice"].status == "model_contrast.prompt_last"
    assert found.number("selected.norm.finance") > 0
    angle = found.number("cluster_angle.medical__persona_deg")
    assert found.number("cluster_angle.medical__persona_raw_deg") != angle
    beside = "sensitivity.model_contrast.prompt_last.cluster_angle.medical__persona_deg"
    assert found.number(beside) == pytest.approx(angle, abs=1e-3)
    missing = found.rows["sensitivity.control_contrast.prompt_mean"].status
    assert missing == "undefined: medical_replication: no control"
    for reference in references.REFERENCES:
        at = f"reference.{reference}"
        assert found.rows[f"{at}.cross_mean"].low < found.number(f"{at}.cross_mean")
        assert f"{at}.cross_mean.prompts_only" in found
        assert found.rows[f"{at}.holds.test1"].status in ("yes", "no", "cannot tell")
    beside = found.number("reference.base.angle_deg.medical__persona")
    assert beside == pytest.approx(angle, abs=1e-3)
    cells = pl.read_csv("plots/multiverse.csv")
    assert len(cells) == found.number("multiverse.cells") == 4 * 3 * 2 * LAYERS
    assert found.rows["multiverse.holds.test1"].n == len(cells)
    assert found.rows["external"].status == "none given"
    shown = read_json(paths.metrics("geometry"))
    assert set(shown["reference"]) == set(references.REFERENCES)
    assert "prompts_only" not in str(shown)
    cosines = pl.read_csv("plots/cosines.csv")
    assert cosines.shape == (6, 7)
    for pair, cosine in found.group("cosine").items():
        a, b = pair.split("__")
        shown = cosines.filter(pl.col("name") == a)[b].item()
        assert shown == pytest.approx(cosine.value, abs=1e-5)


def test_massive_dimensions_of_the_base_are_left_out(folder: Path) -> None:
    rows = np.array([[1.0, 0.0, 5.0], [-9.0, 1.0, 6.0]])
    assert massive_dimensions(rows, 0.34).tolist() == [2]
    assert massive_dimensions(rows, 0.0).tolist() == []
    found = measured(params_with(folder, massive_share=0.021))  # dimension 0 of the base is massive
    cells = pl.read_csv("plots/multiverse.csv").filter(
        reference="base", span="prompt_last", block=1
    )
    with_it, without = (
        cells.filter(massive_dimensions=w)["angle_deg"].item() for w in ("with", "without")
    )
    selected = read_selected(paths.SELECTED)
    left = unit_gram(np.stack([s.vector[1:] for s in selected.values()]))
    assert without == pytest.approx(float(cluster_angle(left, [2, 3], [4, 5])), rel=1e-4)
    assert with_it == pytest.approx(found.number("reference.base.angle_deg.medical__persona"))


def test_vectors_of_other_organisms_are_refused(folder: Path) -> None:
    selected = read_selected(paths.SELECTED)
    write_selected(paths.SELECTED, {"finance": selected["finance"]}, {})
    with pytest.raises(UserError, match="not those of the organisms"):
        measured(params_with(folder))
    paths.SELECTED.unlink()
    with pytest.raises(UserError, match="file not found"):
        measured(params_with(folder))


def test_further_directions_join_the_battery(folder: Path) -> None:
    vectors = {slug: s.vector for slug, s in read_selected(paths.SELECTED).items()}
    others = {"same": 7.0 * vectors["finance"], "against": -vectors["medical"]}
    write_tensors(folder / "data/external/sae.safetensors", others, {})
    found = measured(params_with(folder))
    assert found.rows["external.names"].status == "against, same"
    for pair, cosine in (
        ("finance__same", 1.0),
        ("medical__against", -1.0),
        ("against__same", -found.number("cosine.finance__medical")),
    ):
        assert found.number(f"external.cosine.{pair}") == pytest.approx(cosine, abs=1e-5)
    assert found.group("external.verdict") == found.group("verdict")  # they are in no cluster
    assert "same" not in " ".join(found.group("pca"))


def test_a_direction_that_cannot_be_used_is_named(folder: Path) -> None:
    full = np.ones(WIDTH)
    (folder / "._sae.safetensors").write_bytes(b"\0\5\x16\7")  # hidden files are none
    faults = {"narrow": np.ones(5), "table": np.ones((2, WIDTH)), "nan": np.nan * full}
    faults |= {"zero": 0 * full, "finance": full, "a__b": full}
    for name, vector in faults.items():
        save_file({name: vector.astype(np.float32)}, folder / "bad.safetensors")
        with pytest.raises(UserError, match=rf"bad\.safetensors: {name}"):
            read_directions(folder, WIDTH, ["finance"])
    (folder / "bad.safetensors").rename(folder / "direction.pt")
    with pytest.raises(UserError, match=r"direction\.pt"):
        read_directions(folder, WIDTH, [])
    with pytest.raises(UserError, match=r"vectors\.external"):
        read_directions(folder / "none", WIDTH, [])


def test_calibration_has_intervals_nulls_and_power(folder: Path) -> None:
    params = params_with(folder)
    write_artifacts(folder, params, core=0.5)
    found = calibrated(params)
    assert (found.number("rows"), found.number("topics")) == (ROWS, TOPICS)
    assert (found.number("width"), found.number("massive_dimensions")) == (WIDTH, 0)
    assert found.number("effective_dimension.finetunes") > 1
    key = "statistic.similarity.separation"
    row = found.rows[key]
    assert row.low < row.value < row.high and row.n == TOPICS
    angle = found.rows["statistic.angle_deg.finance__sports"]  # without nulls
    assert angle.low < angle.value < angle.high
    assert found.number(f"{key}.partitions.smallest_p") == pytest.approx(1 / 15, rel=1e-4)
    assert found.number(f"{key}.partitions.p") == pytest.approx(1 / 15, rel=1e-4)
    assert 0 < found.number(f"{key}.exchanged.p") < 0.05
    assert found.rows[f"{key}.exchanged"].high < row.value
    repeats = [slug for slug, first in params.repeats().items() if first in params.slugs("control")]
    assert found.number("benign_finetunes") == len([*params.slugs("control"), *repeats])
    sizes = [found.number(f"random_adapters.{key}") for key in ("size", "cosine")]
    assert params.random_adapters and 0 < sizes[0] < 1.5 and abs(sizes[1]) < 1
    shares = found.group("statistic.cross_variance")
    assert any(row.high is not None and row.high > 1 for row in shares.values())  # in percent
    core = found.rows["core"]
    assert 0 < core.low < core.value < core.high < 1
    verdicts = ("discriminates", "cannot discriminate", "reversed")
    assert found.rows["power.test1.verdict_paper"].status in verdicts
    assert len(list(flatten(read_json(paths.metrics("calibration"))))) <= 40
    power = pl.read_csv("plots/power.csv")
    assert power["share"][0] == 0.0 and power["share"].is_sorted()
    assert calibrated(params) == found  # the same bytes again


def select(contrast: str) -> None:
    """Selected vectors that claim another contrast, span and block."""
    selected = read_selected(paths.SELECTED)
    other = {m: replace(s, layer=2, contrast=contrast, span="x") for m, s in selected.items()}
    write_selected(paths.SELECTED, other, {})


@pytest.mark.parametrize(
    ("contrast", "calibrated_as", "rows"),
    [
        ("prompt_contrast", "prompt_contrast", TOPICS * PAIRS),
        ("interaction", "interaction", TOPICS * PAIRS),
        ("response_contrast", "model_contrast", ROWS),
        ("control_contrast", "control_contrast", ROWS),
    ],
)
def test_a_contrast_has_its_rows(
    folder: Path, contrast: str, calibrated_as: str, rows: int
) -> None:
    select(contrast)
    found = calibrated(params_with(folder))
    assert found.rows["contrast"].status == calibrated_as
    assert found.rows["span"].status == "prompt_last"
    assert found.number("rows") == rows


def test_an_organism_without_a_control_has_no_control_contrast(folder: Path) -> None:
    select("control_contrast")
    params = params_with(folder)
    fewer = {slug: o for slug, o in params.organisms.items() if slug != "medical_control"}
    with pytest.raises(UserError, match="no control of its own recipe"):
        calibrated(params.model_copy(update={"organisms": fewer}))


@pytest.mark.parametrize(
    "clusters", [{}, {"x": ["a"], "y": ["b"], "z": ["c"]}, {"x": ["a", "b"], "y": ["c"]}]
)
def test_any_clusters_get_numbers_or_statuses(clusters: dict[str, list[str]]) -> None:
    rows = np.random.default_rng(0).standard_normal((3, 24, 20))
    sample = PromptRows(rows, [f"t{i % 6}" for i in range(24)])
    family = references.Finetunes(["a", "b", "c"])
    data = references.Evidence(clusters, family, np.eye(3), sample, np.array([0]))
    results = calibrate_rows(data, Geometry(replicates=100), 0).results
    assert (results["core"].value is None) == (len(clusters) < 3)  # type: ignore[union-attr]


def test_unpaired_prompts_are_refused() -> None:
    with pytest.raises(UserError, match="one neutral and one harmful"):
        pair_rows(["neutral", "harmful", "harmful"], ["a", "a", "b"])
