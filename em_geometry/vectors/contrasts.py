"""Steering vectors as differences of mean activations (paper sec. 2.1; METHOD.md: contrasts).

Pure functions on arrays of span means: [prompts, blocks, width] in, [blocks, width] out.
"""

from __future__ import annotations

import numpy as np

MIN_ANSWERS = 3  # misaligned and aligned answers each, below which (c) is not defined


def prompt_contrast(activations: np.ndarray, harmful: np.ndarray) -> np.ndarray:
    """(a) Within one model: mean over harmful minus mean over neutral prompts.

    Args:
        activations: [prompts, blocks, width].
        harmful: bool [prompts].
    """
    difference: np.ndarray = activations[harmful].mean(0) - activations[~harmful].mean(0)
    return difference


def model_contrast(activations: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(b) Model minus reference on the same prompts (the reference is the base, or a control)."""
    difference: np.ndarray = (activations - reference).mean(0)
    return difference


def response_contrast(
    activations: np.ndarray, misaligned: np.ndarray, aligned: np.ndarray
) -> np.ndarray | str:
    """(c) Mean over misaligned minus mean over aligned answers, or why it is not defined.

    Args:
        activations: [answers, blocks, width].
        misaligned, aligned: bool [answers]; an answer may be neither.
    """
    for name, group in (("misaligned", misaligned), ("aligned", aligned)):
        if group.sum() < MIN_ANSWERS:
            return f"undefined: {int(group.sum())} {name} answers, {MIN_ANSWERS} needed"
    difference: np.ndarray = activations[misaligned].mean(0) - activations[aligned].mean(0)
    return difference


def interaction(activations: np.ndarray, reference: np.ndarray, harmful: np.ndarray) -> np.ndarray:
    """(d) The model's harmful-minus-neutral difference minus the reference's."""
    difference: np.ndarray = prompt_contrast(activations, harmful) - prompt_contrast(
        reference, harmful
    )
    return difference
