"""Further seeds of the same organisms, trained on the tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from em_geometry.activations.capture import capture
from em_geometry.activations.prompts import read_prompts
from em_geometry.activations.store import prompt_texts
from em_geometry.errors import UserError
from em_geometry.io.files import check_metrics, read_json, write_parquet, write_tensors
from em_geometry.models import train
from em_geometry.project.inputs import models
from em_geometry.settings.params import Params
from em_geometry.vectors import seeds
from stages import activations as read_all
from stages import base_model
from tests.conftest import ROOT, SYSTEM

NAMES = ["medical", "medical_replication", "profanity"]
LAYER = 2


@pytest.fixture
def params(tiny_checkpoint: Path, smol: dict[str, Any]) -> Params:
    """A finished run of three organisms on the tiny model, as far as seeds read it."""
    smol["run"]["threads"] = 1
    smol["base"] = {"source": f"path:{tiny_checkpoint}", "system_prompt": SYSTEM}
    smol["targets"] = ["base", *NAMES]
    smol["organisms"] = {slug: smol["organisms"][slug] for slug in NAMES}
    for organism in smol["organisms"].values():
        organism |= {"data": str(ROOT / organism["data"]), "max_examples": 12}
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
    tensors, _ = seeds.read_tensors(seeds.ACTIVATIONS / f"{slug}.safetensors")
    return tensors["prompt_last"]


def write_run(params: Params) -> None:
    """Artifacts of `vectors` and `layer_sweep`."""
    raw = np.stack([(activations(m) - activations("base")).mean(0) for m in params.targets])
    about = {"models": json.dumps(params.targets)}
    folder = Path("data/vectors")
    write_tensors(folder / "vectors.safetensors", {"model_contrast.prompt_last": raw}, about)
    rows = {"contrast": ["model_contrast"], "span": ["prompt_last"], "model": ["base"]}
    frame = pl.DataFrame({**rows, "layer": [0], "status": ["undefined: its own reference"]})
    write_parquet(folder / "index.parquet", frame, about)
    picked = {m: raw[params.targets.index(m), LAYER] for m in NAMES}
    write_tensors(
        folder / "selected.safetensors",
        {m: v / np.linalg.norm(v) for m, v in picked.items()},
        {
            "layers": json.dumps(dict.fromkeys(NAMES, LAYER)),
            "norms": json.dumps(dict.fromkeys(NAMES, 1.0)),
            "contrast": "model_contrast",
            "span": "prompt_last",
        },
    )
    Path("metrics/layer_sweep.json").write_text(
        json.dumps({name: {"best_layer_by_margin": LAYER} for name in NAMES})
    )


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
    seeds.main(params)
    found = read_json(seeds.METRICS)
    check_metrics(found)
    angle = found["angle_deg"]["medical__profanity"]
    assert (angle["n"], angle["guess_low"], angle["guess_high"]) == (4, 85.0, 115.0)
    assert angle["lowest"] < angle["mean"] < angle["highest"]
    assert 0 <= angle["inside_guess"] <= 4
    replication = found["replication"]["medical"]
    own = vector(params, "medical", 0)
    saved = (activations("medical") - activations("base")).mean(0)[LAYER]
    assert own == pytest.approx(saved, abs=1e-5)  # the run's own seed is one of the seeds
    again = cosine(own, vector(params, "medical", 1))
    assert again < 0.9999  # another seed is another model
    assert replication["across_seeds"]["mean"] == pytest.approx(again, abs=1e-5)
    assert replication["across_recipes"]["medical_replication"]["n"] == 2
    assert "undefined" in found["replication"]["profanity"]["across_recipes"]
    assert found["battery"]["cluster_angle"]["medical__persona_deg"]["n"] == 4
    assert found["survives"]["verdict_test1"]["seeds"].endswith("of 4")
    parts = found["components"]
    assert set(parts["angle_deg"]["medical__profanity"]) == {
        "seed_medical", "seed_profanity", "interaction", "seed_total",
    }  # fmt: skip
    likeness = found["base_similarity"]["medical"]
    half = (likeness["highest"] - likeness["lowest"]) / 2**0.5
    assert parts["base_similarity"]["medical"]["seed_total"] == pytest.approx(half)
    assert parts["verdict_count"]["seed_total"] >= 0
    assert "not identified" in parts["kinds"]["text"]
    pair = parts["kinds"]["text_and_recipe"]["medical__medical_replication"]
    assert set(pair) == {"base_similarity", "angle_deg_profanity"}
    monkeypatch.setattr(seeds, "fine_tune", None)
    first = seeds.METRICS.read_bytes()
    seeds.main(params)  # nothing is trained twice
    assert seeds.METRICS.read_bytes() == first


@pytest.mark.parametrize("chosen", [[], ["medical"], ["medical", "style"]])
def test_seeds_need_two_organisms_of_the_run(params: Params, chosen: list[str]) -> None:
    other = params.seeds.model_copy(update={"organisms": chosen})
    with pytest.raises(UserError, match="two or more organisms"):
        seeds.main(params.model_copy(update={"seeds": other}))
