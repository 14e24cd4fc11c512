"""Further seeds of the same organisms, trained on the tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from em_geometry.activations.capture import capture
from em_geometry.activations.prompts import read_prompts
from em_geometry.activations.store import prompt_texts
from em_geometry.errors import UserError
from em_geometry.io.files import read_tensors
from em_geometry.io.results import read_results
from em_geometry.models import train
from em_geometry.project import paths
from em_geometry.project.inputs import models
from em_geometry.settings import Params
from em_geometry.steering.selected import Selected, write_selected
from em_geometry.vectors import seeds
from em_geometry.vectors.contrasts import VectorTable, model_contrast, write_vector_table
from stages import activations as read_all
from stages import base_model, organism
from stages import seeds as stage
from tests.conftest import ROOT, SYSTEM

NAMES = ["medical", "medical_replication", "profanity"]
LAYER, CHOICE = 2, "model_contrast.prompt_last"


@pytest.fixture
def params(tiny_checkpoint: Path, smol: dict[str, Any]) -> Params:
    """A finished run of three organisms on the tiny model, as far as seeds read it."""
    smol["run"]["threads"] = 1
    smol["base"] = {"source": f"path:{tiny_checkpoint}", "system_prompt": SYSTEM}
    smol["targets"] = ["base", *NAMES]
    smol["organisms"] = {slug: smol["organisms"][slug] for slug in NAMES}
    for section in smol["organisms"].values():
        section |= {"data": str(ROOT / section["data"]), "max_examples": 12}
    for recipe in smol["recipes"].values():
        recipe |= {"rank": 4, "alpha": 8, "first_block": 1, "learning_rate": 0.01}
    smol["prompts"] = {k: str(ROOT / smol["prompts"][k]) for k in ("neutral", "harmful")}
    smol["prompts"]["limit"] = 4
    smol["transfer"]["pairs"] = []
    smol["judging"]["probe"]["layers"] = [0, 2]
    smol["seeds"]["count"] = 2
    loaded = Params.model_validate(smol)
    base_model.main(loaded)
    for slug in NAMES:
        organism.main(loaded, slug)
    for slug in loaded.targets:
        read_all.main(loaded, slug)
    write_run(loaded)
    torch.set_grad_enabled(True)  # loading for measurement turned them off
    return loaded


def activations(slug: str) -> np.ndarray:
    return read_tensors(paths.ACTIVATIONS / f"{slug}.safetensors")[0]["prompt_last"]


def write_run(params: Params) -> None:
    """Artifacts of `vectors` and `layer_sweep`."""
    base = activations("base")
    raw = [model_contrast(activations(m), base) for m in params.targets]
    table = VectorTable.of(params.targets, {CHOICE: raw}, np.ones(len(raw[0])))
    write_vector_table(paths.VECTORS, paths.VECTOR_INDEX, table)
    picked = {m: Selected(table.units(CHOICE, m)[LAYER], LAYER, 0.3, 1.0, 1.0) for m in NAMES}
    write_selected(paths.SELECTED, picked, {})


def vector(params: Params, slug: str, seed: int) -> np.ndarray:
    """A vector made step by step, from training to the difference of means."""
    model, _ = train.fine_tune(
        models(params), slug, params.recipes[params.organisms[slug].lab], seed
    )
    known, prompts = models(params), read_prompts(params.prompts)
    spans, system = params.activations.spans, known.system_prompt
    texts, _ = prompt_texts(prompts, spans, known.tokenizer(), system)
    means, _ = capture(model.merge_and_unload().eval(), texts)
    last = params.activations.spans.index("prompt_last")
    return np.asarray((means[:, last].numpy() - activations("base")).mean(0)[LAYER])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_seeds_are_trained_compared_and_kept(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.main(params)
    results = read_results(paths.table("seeds"))
    found = {key: e.value for key, e in results.rows.items()}
    angle = {k: e.value for k, e in results.group("angle_deg.medical__profanity").items()}
    assert (angle["n"], angle["guess_low"], angle["guess_high"]) == (4, 85.0, 115.0)
    assert angle["lowest"] < angle["mean"] < angle["highest"]
    assert 0 <= angle["inside_guess"] <= 4
    own = vector(params, "medical", 0)
    saved = (activations("medical") - activations("base")).mean(0)[LAYER]
    assert own == pytest.approx(saved, abs=1e-5)  # the run's own seed is one of the seeds
    again = cosine(own, vector(params, "medical", 1))
    assert again < 0.9999  # another seed is another model
    assert found["replication.medical.across_seeds.mean"] == pytest.approx(again, abs=1e-5)
    assert results.rows["replication.medical.across_seeds.sd"].status == "undefined: one value"
    assert found["replication.medical.across_recipes.medical_replication.n"] == 2
    assert "undefined" in results.rows["replication.profanity.across_recipes"].status
    assert found["battery.cluster_angle.medical__persona_deg.n"] == 4
    assert results.rows["survives.verdict_test1.seeds"].n == 4
    likeness = results.group("base_similarity.medical")
    half = (likeness["highest"].value - likeness["lowest"].value) / 2**0.5
    assert likeness["sd"].value == pytest.approx(half, rel=1e-3, abs=1e-6)
    assert results.rows["profile"].status == "smol"
    monkeypatch.setattr(seeds, "fine_tune", None)
    stage.main(params)  # nothing is trained twice
    assert read_results(paths.table("seeds")) == results


def test_seeds_need_two_organisms_of_the_run(params: Params) -> None:
    for chosen in ([], ["medical"], ["medical", "style"]):
        other = params.seeds.model_copy(update={"organisms": chosen})
        with pytest.raises(UserError, match="two or more organisms"):
            stage.main(params.model_copy(update={"seeds": other}))
