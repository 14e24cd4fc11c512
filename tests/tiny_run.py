"""A finished run of a few organisms on the tiny model, as far as models trained again read it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from em_geometry.io.files import read_tensors
from em_geometry.project import paths
from em_geometry.settings import Params
from em_geometry.steering.conditions import Selected, write_selected
from em_geometry.vectors.contrasts import VectorTable, model_contrast, write_vector_table
from stages import activations as read_all
from stages import base_model, organism
from tests.conftest import ROOT, on_tiny

NAMES = ["medical", "medical_replication", "profanity"]
LAYER, CHOICE = 2, "model_contrast.prompt_last"


def finished(checkpoint: Path, smol: dict[str, Any], slugs: list[str], prompts: int) -> Params:
    """Trains the organisms and writes activations, vectors and what was selected of `NAMES`."""
    training, monitored = dict(smol["training"]), dict(smol["monitoring"])
    on_tiny(smol, checkpoint, slugs, max_examples=14)
    smol |= {"training": training, "monitoring": monitored}
    smol["vectors"] |= dict(zip(("contrast", "span"), CHOICE.split("."), strict=True))
    smol["prompts"] = {k: str(ROOT / smol["prompts"][k]) for k in ("neutral", "harmful")}
    smol["prompts"]["limit"] = prompts
    params = Params.model_validate(smol)
    base_model.main(params)
    for slug in slugs:
        organism.main(params, slug)
    for slug in params.targets:
        read_all.main(params, slug)
    base = activations("base")
    raw = [model_contrast(activations(m), base) for m in params.targets]
    table = VectorTable.of(params.targets, {CHOICE: raw}, np.ones(len(raw[0])))
    write_vector_table(paths.VECTORS, paths.VECTOR_INDEX, table)
    picked = {m: Selected(table.units(CHOICE, m)[LAYER], LAYER, 0.3, 1.0, 1.0) for m in NAMES}
    write_selected(paths.SELECTED, picked, {})
    torch.set_grad_enabled(True)  # loading for measurement turned them off
    return params


def activations(slug: str) -> np.ndarray:
    return read_tensors(paths.ACTIVATIONS / f"{slug}.safetensors")[0]["prompt_last"]
