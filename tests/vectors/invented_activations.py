"""Params and invented activation artifacts, in the formats of the real stages."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl

from em_geometry.io.files import write_parquet, write_tensors
from em_geometry.project import paths
from em_geometry.settings import Params
from em_geometry.steering.selected import Selected, write_selected
from tests.transfer import invented_judgements

SPANS = ("prompt_last", "prompt_mean")
PROMPTS, BLOCKS, WIDTH, ANSWERS = 6, 3, 5, 8
HARMFUL = np.array([False, False, False, True, True, True])


def params(**sections: Any) -> Params:
    """Two organisms of lab one with a control, one of lab two without."""
    grid = {"layers": [0, 2], "doses": [0.2, 0.4], "min_coherent": 50.0}
    return invented_judgements.params(**{"layer_sweep": grid, **sections})


def activations(seed: int) -> np.ndarray:
    """Random float32 [prompts, blocks, width]."""
    return np.random.default_rng(seed).normal(size=(PROMPTS, BLOCKS, WIDTH)).astype(np.float32)


def prompt_rows() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "prompt_id": [f"p{i}" for i in range(PROMPTS)],
            "kind": ["harmful" if h else "neutral" for h in HARMFUL],
        }
    )


Written = dict[tuple[str, str], np.ndarray]  # activations by target and span


def write_prompt_activations(targets: list[str]) -> Written:
    """Writes data/activations of every target; returns the arrays by (target, span)."""
    written = {}
    for i, model in enumerate(targets):
        tensors = {}
        for j, span in enumerate(SPANS):
            written[model, span] = tensors[span] = activations(10 * i + j)
            tensors[f"{span}.norm"] = np.linalg.norm(tensors[span], axis=-1)
        write_tensors(paths.ACTIVATIONS / f"{model}.safetensors", tensors, {"model": model})
        write_parquet(paths.ACTIVATIONS / f"{model}.parquet", prompt_rows(), {})
    return written


def write_answers(model: str, aligned: list[float | None], coherent: list[float | None]) -> None:
    """Writes judged answers; the one in row 1 is empty and was not captured."""
    frame = pl.DataFrame(
        {"aligned": aligned, "coherent": coherent},
        schema={"aligned": pl.Float64, "coherent": pl.Float64},
    )
    write_parquet(paths.BASELINE_JUDGEMENTS / f"{model}.parquet", frame, {})
    rows = [i for i in range(ANSWERS) if i != 1]
    tensors = {
        "response_mean": answer_activations()[rows],
        "response_mo": 2 * answer_activations()[rows],
    }
    path = paths.RESPONSE_ACTIVATIONS / f"{model}.safetensors"
    write_tensors(path, tensors, {"rows": json.dumps(rows)})


def answer_activations() -> np.ndarray:
    """[answers, blocks, width]; answer i is i everywhere."""
    rising = np.arange(ANSWERS, dtype=np.float32)[:, None, None]
    return np.broadcast_to(rising, (ANSWERS, BLOCKS, WIDTH)).copy()


def write_choice(layers: dict[str, int]) -> None:
    """Writes a selected vector of each organism, at this block."""
    vector = np.eye(WIDTH, dtype=np.float32)[0]
    chosen = {slug: Selected(vector, layer, 0.2, 1.0, 1.0) for slug, layer in layers.items()}
    write_selected(paths.SELECTED, chosen, {})
