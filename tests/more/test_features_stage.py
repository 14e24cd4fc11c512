"""The experiment `features` end to end on the tiny model."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load_file, save_file

from em_geometry.claims.lookup import Metrics
from em_geometry.errors import UserError
from em_geometry.io.results import read_results
from em_geometry.more.features import sparse
from em_geometry.project import paths
from em_geometry.report.tables import Results, all_tables
from em_geometry.settings import Params
from stages.more import features
from tests.conftest import ROOT, WIDTH
from tests.tiny_run import LAYER, NAMES, finished

pytestmark = pytest.mark.usefixtures("workplace")
SLUGS = [*NAMES, "style", "full", "control", "medical_b", "full_b"]


@pytest.fixture
def params(tiny_checkpoint: Path, smol: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Params:
    """A finished run on the tiny model, and a short training of dictionaries."""
    for name, value in {"STEPS": 30, "RESEAT": 10, "BATCH": 64, "K": 8}.items():
        monkeypatch.setattr(sparse, name, value)
    smol["training"]["checkpoints"] = [2]
    smol["monitoring"]["organisms"] = []
    smol["questions"]["file"] = str(ROOT / smol["questions"]["file"])
    smol["more"]["dictionary"] = "given"
    Path("given").mkdir()
    return finished(tiny_checkpoint, smol, SLUGS, prompts=8)


def test_a_dictionary_is_trained_compared_and_used(params: Params) -> None:
    features.main(params)
    found = read_results(paths.table("features"))
    number, folder = found.number, paths.MORE / "features"
    assert number("dictionary.block") == LAYER and number("dictionary.latents") == 4 * WIDTH
    assert found.rows["dictionary.explained"].n and number("dictionary.on") <= 8
    assert 0 < number("dictionary.stability") <= 1
    for slug in NAMES:
        for way in ("cosine", "change"):
            best = int(number(f"organism.{slug}.{way}.latent"))
            assert 0 <= best < 4 * WIDTH
            assert "[" in found.rows[f"organism.{slug}.{way}.text"].status
        assert found.rows[f"organism.{slug}.cosine"].low is not None
        assert number(f"organism.{slug}.change.p_benign.smallest") == pytest.approx(1 / 4)
    for time in ("step_2", "end"):
        for way in ("latents", "nearest", "own", "size"):
            p = number(f"detector.medical_b.{time}.{way}.p")  # full is its control
            assert p >= number(f"detector.medical_b.{time}.{way}.p.smallest") > 0.3
    tables = all_tables(Results(Metrics.read(paths.TABLES).stages, params))
    shown = {table.name: table.rows for table in tables}
    assert len(shown["features"]) == 3 * 2 and len(shown["features_detectors"]) == 2 * 4
    assert "[" in shown["features"][0][-1].text
    frame = pl.read_parquet(folder / "latents.parquet")
    assert len(frame) == 3 * 2 * 10 and frame["text_1"].drop_nulls().str.contains(r"\[").all()
    vector = load_file(paths.SELECTED)["medical"]
    first = frame.filter(organism="medical", ranked_by="cosine", rank=1).row(0, named=True)
    decoder = load_file(folder / "dictionary_1.safetensors")["W_dec"]
    row = decoder[first["latent"]] / np.linalg.norm(decoder[first["latent"]])
    assert first["cosine"] == pytest.approx(float(row @ vector), abs=1e-4)
    assert number("organism.medical.cosine") == pytest.approx(first["cosine"], abs=1e-4)
    first_trainings = {*SLUGS} - {"medical_b", "full_b"}
    assert set(load_file(folder / "moved.safetensors")) == first_trainings
    saved = paths.table("features").read_bytes()
    torch.set_grad_enabled(True)
    features.main(params)
    assert paths.table("features").read_bytes() == saved


def test_a_given_dictionary_is_taken_as_it_is(params: Params) -> None:
    rng = np.random.default_rng(0)
    parts = {name: rng.standard_normal((50, WIDTH)).astype(np.float32) for name in ("E", "D")}
    tensors = {"encoder.weight": parts["E"], "W_dec": parts["D"]}
    save_file(tensors, "given/sae.safetensors")
    features.main(params)
    found = read_results(paths.table("features"))
    assert found.number("dictionary.latents") == 50
    assert found.rows["dictionary.stability"].status.startswith("not measured")
    assert not (paths.MORE / "features/dictionary_1.safetensors").exists()
    save_file({"encoder.weight": parts["E"][:, :8], "W_dec": parts["D"]}, "given/sae.safetensors")
    with pytest.raises(UserError, match="does not fit"):
        features.main(params)
