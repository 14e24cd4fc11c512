"""Similarity of each model to the base (paper fig. 3), three readings, at every block.

docs/method.md: similarity to base. The paper does not define its measure. `contrast_cosine`:
cosine of the contrast-(a) vectors; `mean_cosine`: cosine of the mean activations; `cka`: linear
CKA over prompts.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from em_geometry.io.results import Leaf
from em_geometry.stats.arrays import Bools, Floats
from em_geometry.vectors.contrasts import Array, prompt_contrast

DIVERGED = 0.5  # a lab has diverged at the first block where its mean cosine is below this


def cosine(a: Array, b: Array) -> Floats:
    """Cosines along the last axis; 0 where a vector is zero."""
    scale = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    product = (a * b).sum(-1)
    return np.asarray(np.divide(product, scale, out=np.zeros_like(product), where=scale > 0))


def linear_cka(a: Array, b: Array) -> float:
    """Linear centred kernel alignment of two activation matrices [prompts, width] (0 to 1)."""
    a, b = a - a.mean(0), b - b.mean(0)
    ka, kb = a @ a.T, b @ b.T
    return float((ka * kb).sum() / np.sqrt((ka * ka).sum() * (kb * kb).sum()))


def similarities(model: Array, base: Array, harmful: Bools) -> dict[str, Floats]:
    """The three readings [block] from activations [prompts, blocks, width]."""
    model, base = model.astype(np.float64), base.astype(np.float64)
    return {
        "contrast_cosine": cosine(prompt_contrast(model, harmful), prompt_contrast(base, harmful)),
        "mean_cosine": cosine(model.mean(0), base.mean(0)),
        "cka": np.array([linear_cka(model[:, i], base[:, i]) for i in range(base.shape[1])]),
    }


def similarity_results(
    table: Mapping[str, Mapping[str, Floats]],
    layers: Mapping[str, int],
    labs: Mapping[str, Sequence[str]],
) -> dict[str, Leaf]:
    """Similarity by model and by lab at the selected block, by dotted key.

    Args:
        table: model -> reading -> [block].
        layers: organism -> its vector's block; other models take the median one.
        labs: lab -> its organisms.
    """
    shared = sorted(layers.values())[len(layers) // 2]
    at = {m: {k: float(v[layers.get(m, shared)]) for k, v in of.items()} for m, of in table.items()}
    results: dict[str, Leaf] = {"layer": shared}
    for model, of in at.items():
        results |= {f"model.{model}.{reading}": value for reading, value in of.items()}
    for lab, members in labs.items():
        for reading in at[members[0]]:
            results[f"lab.{lab}.{reading}"] = float(np.mean([at[m][reading] for m in members]))
        trace = np.mean([table[m]["contrast_cosine"] for m in members], axis=0)
        below = np.flatnonzero(trace < DIVERGED)
        results[f"lab.{lab}.n_models"] = len(members)
        results[f"lab.{lab}.divergence_layer"] = (
            int(below[0]) if len(below) else f"never below {DIVERGED}"
        )
    return results
