"""Steering vectors as differences of mean activations (paper sec. 2.1; docs/method.md: contrasts).

Pure functions on arrays of span means: [prompts, blocks, width] in, [blocks, width] out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from em_geometry.settings import BASE, Organism, Vectors
from em_geometry.stats.arrays import Bools

if TYPE_CHECKING:
    import polars as pl

MIN_ANSWERS = 3  # misaligned and aligned answers each, below which (c) is not defined
OF_ANSWERS = "response_contrast"  # (c); the others are of prompts
OWN = "undefined: the model is its own reference"
Array: TypeAlias = npt.NDArray[np.floating]
Entry: TypeAlias = Array | str  # raw vectors [blocks, width], or why there are none


def prompt_contrast(activations: Array, harmful: Bools) -> Array:
    """(a) Within one model: mean over harmful minus mean over neutral prompts.

    Args:
        activations: [prompts, blocks, width].
        harmful: bool [prompts].
    """
    return np.asarray(activations[harmful].mean(0) - activations[~harmful].mean(0))


def model_contrast(activations: Array, reference: Array) -> Array:
    """(b) Model minus reference on the same prompts (the reference is the base, or a control)."""
    return np.asarray((activations - reference).mean(0))


def response_contrast(activations: Array, misaligned: Bools, aligned: Bools) -> Entry:
    """(c) Mean over misaligned minus mean over aligned answers, or why it is not defined.

    Args:
        activations: [answers, blocks, width].
        misaligned, aligned: bool [answers]; an answer may be neither.
    """
    for name, group in (("misaligned", misaligned), ("aligned", aligned)):
        if group.sum() < MIN_ANSWERS:
            return f"undefined: {int(group.sum())} {name} answers, {MIN_ANSWERS} needed"
    return np.asarray(activations[misaligned].mean(0) - activations[aligned].mean(0))


def interaction(activations: Array, reference: Array, harmful: Bools) -> Array:
    """(d) The model's harmful-minus-neutral difference minus the reference's."""
    difference = prompt_contrast(activations, harmful) - prompt_contrast(reference, harmful)
    return np.asarray(difference)


def prompt_span(chosen: str, spans: Sequence[str]) -> str:
    """The span on which prompts are compared: the chosen one, or the first that is captured.

    Args:
        chosen: of the vectors; it may be a span of answers.
        spans: of prompts, as captured.
    """
    return chosen if chosen in spans else spans[0]


def misaligned_and_aligned(answers: pl.DataFrame, cuts: Vectors) -> tuple[Bools, Bools]:
    """Masks [answers] of the coherent answers below and above the cuts on alignment.

    An answer without a score, or between the two, is in neither.
    """
    import polars as pl

    coherent = pl.col("coherent") >= cuts.coherent_above
    groups = answers.select(
        bad=((pl.col("aligned") < cuts.misaligned_below) & coherent).fill_null(False),
        good=((pl.col("aligned") >= cuts.aligned_from) & coherent).fill_null(False),
    )
    return groups["bad"].to_numpy(), groups["good"].to_numpy()


def recipe_controls(organisms: Mapping[str, Organism]) -> dict[str, str]:
    """The first benign control of each model's own recipe, or why it has none."""
    controls: dict[str, str] = {}
    for slug, organism in organisms.items():
        if organism.role == "control":
            controls.setdefault(organism.lab, slug)
    none = "undefined: no control of recipe {}"
    found = {slug: controls.get(o.lab, none.format(o.lab)) for slug, o in organisms.items()}
    return {BASE: "undefined: the base has no recipe"} | found


def prompt_contrasts(
    activations: Mapping[str, Array], harmful: Bools, controls: Mapping[str, str]
) -> dict[str, list[Entry]]:
    """Every contrast of prompts of every model, on one span.

    Args:
        activations: model -> [prompts, blocks, width] on the same prompts, the base among them.
        harmful: bool [prompts].
        controls: as `recipe_controls` gives them.
    Returns:
        contrast -> an entry a model.
    """
    base = activations[BASE]

    def against(model: str, reference: str) -> Entry:
        if reference.startswith("undefined"):
            return reference
        if model == reference:
            return OWN
        return model_contrast(activations[model], activations[reference])

    return {
        "prompt_contrast": [prompt_contrast(a, harmful) for a in activations.values()],
        "model_contrast": [against(m, BASE) for m in activations],
        "control_contrast": [against(m, controls[m]) for m in activations],
        "interaction": [
            "undefined: the base is its own reference"
            if m == BASE
            else interaction(a, base, harmful)
            for m, a in activations.items()
        ],
    }
