"""Similarity of each model to the base (paper fig. 3), three readings, at every block.

METHOD.md: similarity to base. The paper does not define its measure. `contrast_cosine`: cosine of
the contrast-(a) vectors; `mean_cosine`: cosine of the mean activations; `cka`: linear CKA over
prompts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from em_geometry.io.files import read_parquet, read_tensors, write_metrics, write_text
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.settings.params import BASE, Params, load_params
from em_geometry.steering.selected import read_selected
from em_geometry.vectors.contrasts import prompt_contrast
from em_geometry.vectors.files import ACTIVATIONS

METRICS, PLOT = Path("metrics/base_similarity.json"), Path("plots/base_similarity.csv")
DIVERGED = 0.5  # a lab has diverged at the first block where its mean cosine is below this


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines along the last axis; 0 where a vector is zero."""
    scale = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    product = (a * b).sum(-1)
    result: np.ndarray = np.divide(product, scale, out=np.zeros_like(product), where=scale > 0)
    return result


def linear_cka(a: np.ndarray, b: np.ndarray) -> float:
    """Linear centred kernel alignment of two activation matrices [prompts, width] (0 to 1)."""
    a, b = a - a.mean(0), b - b.mean(0)
    ka, kb = a @ a.T, b @ b.T
    return float((ka * kb).sum() / np.sqrt((ka * ka).sum() * (kb * kb).sum()))


def similarities(model: np.ndarray, base: np.ndarray, harmful: np.ndarray) -> dict[str, np.ndarray]:
    """The three readings [block] from activations [prompts, blocks, width]."""
    model, base = model.astype(np.float64), base.astype(np.float64)
    return {
        "contrast_cosine": cosine(prompt_contrast(model, harmful), prompt_contrast(base, harmful)),
        "mean_cosine": cosine(model.mean(0), base.mean(0)),
        "cka": np.array([linear_cka(model[:, i], base[:, i]) for i in range(base.shape[1])]),
    }


def main(params: Params) -> None:
    """Writes similarity by model and by lab at the selected block, and the trace over blocks."""
    span = params.vectors.span if params.vectors.span.startswith("prompt") else "prompt_last"
    read = {m: read_tensors(ACTIVATIONS / f"{m}.safetensors")[0][span] for m in params.targets}
    harmful = (read_parquet(ACTIVATIONS / f"{BASE}.parquet")["kind"] == "harmful").to_numpy()
    models = [m for m in params.targets if m != BASE]
    table = {m: similarities(read[m], read[BASE], harmful) for m in models}
    layers = {slug: s.layer for slug, s in read_selected().items()}
    shared = sorted(layers.values())[len(layers) // 2]  # controls take the median block
    metrics: dict[str, Any] = {"span": span, "layer": shared, "model": {}, "lab": {}}
    for model in models:
        layer = layers.get(model, shared)
        metrics["model"][model] = {k: float(v[layer]) for k, v in table[model].items()}
    labs: dict[str, list[str]] = {}
    for slug in params.slugs("organism"):
        labs.setdefault(params.organisms[slug].lab, []).append(slug)
    for lab, members in labs.items():
        trace = np.mean([table[m]["contrast_cosine"] for m in members], axis=0)
        below = np.flatnonzero(trace < DIVERGED)
        metrics["lab"][lab] = {
            **{
                k: float(np.mean([metrics["model"][m][k] for m in members]))
                for k in ("contrast_cosine", "mean_cosine", "cka")
            },
            "n_models": len(members),
            "divergence_layer": int(below[0]) if len(below) else f"never below {DIVERGED}",
        }
    write_metrics(METRICS, metrics)
    lines = [",".join(["layer", *models])]
    for layer in range(len(next(iter(table.values()))["cka"])):
        row = (f"{table[m]['contrast_cosine'][layer]:.6f}" for m in models)
        lines.append(",".join([str(layer), *row]))
    write_text(PLOT, "\n".join(lines) + "\n")


def cli(params: ParamsFile = PARAMS) -> None:
    """Measure how similar each model is to the base, in three readings."""
    main(load_params(params))
