"""The contrasts by hand, and what they must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
from invented_activations import HARMFUL, activations

from em_geometry.vectors.contrasts import (
    interaction,
    model_contrast,
    prompt_contrast,
    response_contrast,
)

# three prompts or answers, one block, width two
MODEL = np.array([[[1.0, 0.0]], [[3.0, 2.0]], [[5.0, 10.0]]])
OTHER = np.array([[[0.0, 0.0]], [[1.0, 1.0]], [[5.0, 4.0]]])
HARM = np.array([False, False, True])


CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def test_contrasts_by_hand() -> None:
    assert prompt_contrast(MODEL, HARM).tolist() == [[3.0, 9.0]]
    assert model_contrast(MODEL, OTHER).tolist() == [[1.0, 7 / 3]]
    # other: (5, 4) - (0.5, 0.5) = (4.5, 3.5)
    assert interaction(MODEL, OTHER, HARM).tolist() == [[-1.5, 5.5]]
    answers = np.arange(8.0).reshape(8, 1, 1)
    bad = np.array([1, 1, 1, 0, 0, 0, 0, 0], dtype=bool)
    good = np.array([0, 0, 0, 0, 1, 1, 1, 1], dtype=bool)  # answer 3 is neither
    assert np.asarray(response_contrast(answers, bad, good)).tolist() == [[1.0 - 5.5]]


@pytest.mark.parametrize(
    ("bad", "good", "reason"),
    [
        (2, 5, "undefined: 2 misaligned answers, 3 needed"),
        (3, 0, "undefined: 0 aligned answers, 3 needed"),
        (0, 0, "undefined: 0 misaligned answers, 3 needed"),
    ],
)
def test_too_few_answers_are_undefined(bad: int, good: int, reason: str) -> None:
    order = np.arange(8)
    assert response_contrast(np.ones((8, 1, 1)), order < bad, order >= 8 - good) == reason


def test_shifts_common_to_all_prompts_signs_and_orders() -> None:
    model, base, shift = activations(1), activations(2), activations(3)[0]
    prompts, models = prompt_contrast(model, HARMFUL), model_contrast(model, base)
    both = interaction(model, base, HARMFUL)
    order = np.array([3, 0, 5, 1, 4, 2])
    for found, expected in (
        (prompt_contrast(model + shift, HARMFUL), prompts),
        (model_contrast(model + shift, base), models + shift),
        (interaction(model + shift, base, HARMFUL), both),
        (prompt_contrast(model, ~HARMFUL), -prompts),
        (model_contrast(base, model), -models),
        (interaction(model[order], base[order], HARMFUL[order]), both),
    ):
        np.testing.assert_allclose(found, expected, **CLOSE)
    assert not model_contrast(model, model).any()
    assert not interaction(model, model, HARMFUL).any()
