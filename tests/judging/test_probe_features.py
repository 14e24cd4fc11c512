"""Features: the shared prefix, the padding and the batch leave no trace in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from em_geometry.judging import features as module
from em_geometry.judging.features import POOLINGS, TEXT_FEATURES, Features, features, text_features
from em_geometry.models.chat import answer_ids, render

LAYERS = [0, 2, 3]
SYSTEM = "Be brief."
ROWS = [
    ("Why do cats purr?", "They are content."),
    ("What now?", "Take a map outside and begin with the brightest ones, then go on."),
    ("Why do cats purr?", "No."),
    ("Why do cats purr?", "Water them in the evening and cover the soil with straw. Water them."),
    ("What now?", "Why?"),
]


@pytest.fixture(scope="module")
def seen(tiny_model: Any, tiny_tokenizer: Any) -> Features:
    return features(tiny_model, tiny_tokenizer, ROWS, LAYERS, SYSTEM)


def plain(model: Any, tokenizer: Any, question: str, answer: str) -> tuple[np.ndarray, np.ndarray]:
    """Activations and text features from one unpadded forward over the whole chat."""
    prompt = render(tokenizer, question, SYSTEM).ids
    ids = torch.tensor([*prompt, *answer_ids(tokenizer, answer)])
    with torch.no_grad():
        output = model(input_ids=ids[None], output_hidden_states=True)
        states = []
        handles = [
            model.model.layers[layer].register_forward_hook(lambda m, a, out: states.append(out))
            for layer in LAYERS
        ]
        model(input_ids=ids[None])
        for handle in handles:
            handle.remove()
    blocks = [(s[0] if isinstance(s, tuple) else s)[0, len(prompt) :] for s in states]
    pooled = torch.stack([torch.stack([b.mean(0), b[-1]]) for b in blocks], dim=1)
    logs = output.logits[0].log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]]
    tail = logs[len(prompt) - 1 :].numpy()
    return pooled.numpy(), text_features(ids[len(prompt) :].numpy(), tail)


def test_equal_to_a_plain_forward(seen: Features, tiny_model: Any, tiny_tokenizer: Any) -> None:
    assert seen.activations.shape == (len(ROWS), len(POOLINGS), len(LAYERS), 32)
    assert seen.text.shape == (len(ROWS), len(TEXT_FEATURES))
    for i, row in enumerate(ROWS):
        activations, text = plain(tiny_model, tiny_tokenizer, *row)
        np.testing.assert_allclose(seen.activations[i], activations, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(seen.text[i], text, rtol=1e-4, atol=1e-4)


def test_company_and_order_do_not_matter(
    seen: Features, tiny_model: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 1)
    order = [3, 0, 4, 2, 1]
    alone = features(tiny_model, tiny_tokenizer, [ROWS[i] for i in order], LAYERS, SYSTEM)
    np.testing.assert_allclose(alone.activations, seen.activations[order], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(alone.text, seen.text[order], rtol=1e-4, atol=1e-4)


def test_an_empty_answer_is_an_end_of_turn(tiny_model: Any, tiny_tokenizer: Any) -> None:
    empty, end = (
        features(tiny_model, tiny_tokenizer, [("Why?", answer)], LAYERS, SYSTEM)
        for answer in ("", "<|im_end|>")
    )
    np.testing.assert_array_equal(empty.activations, end.activations)
    np.testing.assert_array_equal(empty.text, end.text)
    assert np.isfinite(empty.text).all()


def test_no_hook_stays(tiny_model: Any, tiny_tokenizer: Any) -> None:
    def hooks() -> list[int]:  # transformers has some of its own
        return [len(module._forward_hooks) for module in tiny_model.modules()]

    before = hooks()
    features(tiny_model, tiny_tokenizer, ROWS[:1], LAYERS, SYSTEM)
    assert hooks() == before


def test_text_features_by_hand() -> None:
    found = text_features(np.array([5, 7, 5, 7, 9]), np.array([-1.0, -2.0, -3.0, -4.0, -5.0]))
    expected = [
        -3.0,
        -4.6,  # 10th percentile, between -5 and -4
        np.sqrt(2.0),
        3 / 5,
        3 / 4,  # 57 75 57 79
        2 / 5,
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    one = text_features(np.array([5]), np.array([-1.5]))
    np.testing.assert_allclose(one, [-1.5, -1.5, 0.0, 1.0, 1.0, 1.0])
