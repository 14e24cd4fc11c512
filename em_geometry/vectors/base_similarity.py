"""Similarity of each model to the base (paper fig. 3), three readings, at every block.

docs/method.md: similarity to base. The paper does not define its measure. `contrast_cosine`:
cosine of the contrast-(a) vectors; `mean_cosine`: cosine of the mean activations; `cka`: linear
CKA over prompts.
"""

from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np

from em_geometry.io.results import Leaf
from em_geometry.stats.estimate import Bools, Estimate, Floats
from em_geometry.stats.intervals import jackknife
from em_geometry.vectors.contrasts import Array, prompt_contrast

DIVERGED = 0.5  # a lab has diverged at the first block where its mean cosine is below this
BLOCKS = 32  # of the model that the paper measured
CONTRAST = "contrast_cosine"  # the reading that stands for the paper's
SAME = 1 - 1e-6  # cosine above which no training has reached a block


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
        CONTRAST: cosine(prompt_contrast(model, harmful), prompt_contrast(base, harmful)),
        "mean_cosine": cosine(model.mean(0), base.mean(0)),
        "cka": np.array([linear_cka(model[:, i], base[:, i]) for i in range(base.shape[1])]),
    }


def without_topics(model: Array, base: Array, harmful: Bools, topics: Sequence[str]) -> Floats:
    """Contrast cosines [topic, block] with all prompts of one topic left out at a time."""
    of = np.array(topics)
    kept = (of != topic for topic in dict.fromkeys(topics))
    return np.stack(
        [
            cosine(*(prompt_contrast(m[k].astype(np.float64), harmful[k]) for m in (model, base)))
            for k in kept
        ]
    )


def similarity_results(
    table: Mapping[str, Mapping[str, Floats]],
    without: Mapping[str, Floats],
    layers: Mapping[str, int],
    labs: Mapping[str, Sequence[str]],
) -> dict[str, Leaf]:
    """Similarity by model and by lab at the selected block, by dotted key.

    Contrast cosines have jackknife intervals over topics. Highest cosines and leads are of those
    blocks that training changed in some model: below them all models are the base, and are at 1.

    Args:
        table: model -> reading -> [block].
        without: model -> contrast cosines [topic, block], a topic left out (`without_topics`).
        layers: organism -> its vector's block; other models take the median one.
        labs: lab -> its organisms.
    """
    shared = sorted(layers.values())[len(layers) // 2]
    at = {m: {k: float(v[layers.get(m, shared)]) for k, v in of.items()} for m, of in table.items()}
    left = {m: each[:, layers.get(m, shared)] for m, each in without.items()}
    results: dict[str, Leaf] = {"layer": shared}
    for model, of in at.items():
        results |= {f"model.{model}.{reading}": value for reading, value in of.items()}
        results[f"model.{model}.{CONTRAST}"] = _cosine(of[CONTRAST], left[model])
    traces = {lab: _mean([table[m][CONTRAST] for m in some]) for lab, some in labs.items()}
    cut = {lab: _mean([without[m] for m in members]) for lab, members in labs.items()}
    reached = np.min([of[CONTRAST] for of in table.values()], axis=0) < SAME
    reached |= not reached.any()
    for lab, members in labs.items():
        high = float(traces[lab][reached].max())
        means = {k: float(np.mean([at[m][k] for m in members])) for k in at[members[0]]}
        results |= {f"lab.{lab}.{reading}": value for reading, value in means.items()}
        results |= {
            f"lab.{lab}.{CONTRAST}": _cosine(means[CONTRAST], _mean([left[m] for m in members])),
            f"lab.{lab}.highest_cosine": _cosine(high, cut[lab][:, reached].max(1)),
            f"lab.{lab}.n_models": len(members),
            **divergence(f"lab.{lab}.divergence_layer", traces[lab]),
        }
    for a, b in permutations(labs, 2):
        lead, cuts = (traces[a] - traces[b])[reached], (cut[a] - cut[b])[:, reached]
        results[f"lead.{a}__{b}"] = jackknife(float(lead.min()), cuts.min(1))
    return results


def divergence(key: str, trace: Floats) -> dict[str, Leaf]:
    """First block where a trace [block] is below `DIVERGED`, also scaled to the paper's blocks."""
    below = np.flatnonzero(trace < DIVERGED)
    never = f"never below {DIVERGED}"
    if not len(below):
        return {key: never, f"{key}_of_{BLOCKS}": never}
    return {key: int(below[0]), f"{key}_of_{BLOCKS}": float(below[0] * BLOCKS / len(trace))}


def _cosine(value: float, without: Floats) -> Estimate:
    return jackknife(value, without).within(-1.0, 1.0)


def _mean(values: Sequence[Floats]) -> Floats:
    return np.asarray(np.mean(values, axis=0))
