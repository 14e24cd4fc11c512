"""What the stages of this folder share: where vectors lie, and the unit of relative doses."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from em_geometry.io.files import read_tensors
from em_geometry.settings.params import BASE, Params

FOLDER = Path("data/vectors")
VECTORS, INDEX = FOLDER / "vectors.safetensors", FOLDER / "index.parquet"
ACTIVATIONS = Path("data/activations")


def residual_norms(params: Params) -> np.ndarray:
    """Mean Euclidean norm [blocks] of the base's residual stream, the unit of relative doses.

    Over the user's tokens of all prompts, where captured; the first token of a text, whose norm
    is many times larger, is never among them.
    """
    tensors, _ = read_tensors(ACTIVATIONS / f"{BASE}.safetensors")
    spans = params.activations.spans
    span = "prompt_mean" if "prompt_mean" in spans else spans[0]
    norms: np.ndarray = tensors[f"{span}.norm"].mean(0)
    return norms
