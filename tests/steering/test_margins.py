"""Margins of answer pairs, against plain forward passes of one text at a time."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tiny_steering import ablate, add, loaded, tokens, unit

from em_geometry.errors import UserError
from em_geometry.steering.conditions import Intervention
from em_geometry.steering.margins import (
    Row,
    ablated_everywhere,
    measured,
    packed,
    pair_log_probabilities,
    rows_of,
    together,
)
from em_geometry.steering.pairs import Pair, Trial, read_pairs
from tests.activations.families import random_model

ROWS = [
    Row(tokens(1, 9), tokens(2, 4), tokens(3, 7)),
    Row(tokens(4, 6), tokens(5, 5), tokens(6, 3)),
    Row(tokens(7, 9), tokens(8, 1), tokens(9, 1)),
]


def direct(model: Any, how: Intervention | None) -> list[list[float]]:
    """The same by one forward pass a text, and a hook of our own."""

    def hook(module: Any, args: Any, output: Any) -> Any:
        assert how is not None
        vector = torch.from_numpy(how.vector)
        if how.mode == "ablate":
            return output - (output @ vector)[..., None] * vector
        return output + how.coefficient * vector

    def mean(prompt: tuple[int, ...], answer: tuple[int, ...]) -> float:
        ids = torch.tensor([prompt + answer])
        logs = model(input_ids=ids).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
        return float(logs.gather(-1, ids[0, len(prompt) :, None]).mean())

    handle = model.model.layers[how.layer].register_forward_hook(hook) if how else None
    with torch.no_grad():
        found = [[mean(r.prompt, r.marked), mean(r.prompt, r.plain)] for r in ROWS]
    if handle:
        handle.remove()
    return found


WINDOW = {"attn_implementation": "eager", "sliding_window": 6}  # shorter than every row


@pytest.fixture(params=["llama", "qwen2", "gemma2", "mistral"])
def model(request: pytest.FixtureRequest, llama: Any) -> Any:
    more = WINDOW if request.param in ("gemma2", "mistral") else {}
    return llama if request.param == "llama" else random_model(request.param, 258, 4, **more)


def test_a_model_that_counts_places_in_a_row_is_refused() -> None:
    config = transformers.BloomConfig(vocab_size=258, hidden_size=32, n_layer=2, n_head=4)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(UserError, match="side by side") as caught:
        pair_log_probabilities(model, ROWS, [None])
    assert "model_type bloom" in str(caught.value)


def test_equal_a_pass_of_each_text_alone(model: Any) -> None:
    ways = [None, add(4, 1, 3.0), add(5, 3, -2.0), ablate(6, 1), add(4, 0, 0.0)]
    found = pair_log_probabilities(model, ROWS, ways)
    np.testing.assert_allclose(found, [direct(model, how) for how in ways], rtol=1e-4, atol=1e-4)
    assert np.ptp(found[:4], axis=0).min() > 0.01  # each way shows in every pair
    assert not any("forward" in vars(block) for block in model.model.layers)


def test_passes_of_a_few_tokens_change_nothing(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = [add(seed, 2, 2.0) for seed in range(5)]
    together = pair_log_probabilities(llama, ROWS, ways)
    monkeypatch.setattr("em_geometry.steering.margins.TOKENS", {"cpu": 1})
    np.testing.assert_allclose(
        pair_log_probabilities(llama, ROWS, ways), together, rtol=1e-4, atol=1e-5
    )


def test_what_prompts_begin_with_is_read_once(model: Any) -> None:
    rows = [Row(tokens(1, 5) + row.prompt, row.marked, row.plain) for row in ROWS]
    batch = packed(rows, "cpu", torch.float32)
    assert batch.ids.shape[1] == sum(map(len, rows)) - 2 * 5
    how = add(4, 1, 3.0)
    alone = [pair_log_probabilities(model, [row], [None, how]) for row in rows]
    found = pair_log_probabilities(model, rows, [None, how])
    np.testing.assert_allclose(found, np.concatenate(alone, axis=1), rtol=1e-4, atol=1e-4)
    same = pair_log_probabilities(model, [rows[0], rows[0]], [how])[0]
    np.testing.assert_allclose(same[0], same[1], atol=1e-5)


def test_as_many_rows_are_packed_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert together(ROWS) == [[0, 1, 2]]
    monkeypatch.setattr("em_geometry.steering.margins.PACKED", len(ROWS[0]) + len(ROWS[1]))
    assert together(ROWS) == [[0, 1], [2]]
    monkeypatch.setattr("em_geometry.steering.margins.PACKED", 1)
    assert together(ROWS) == [[0], [1], [2]]


def test_ablation_everywhere_leaves_nothing_along_the_vector(llama: Any) -> None:
    vector, seen = unit(3), []
    with ablated_everywhere(llama, vector):
        inside = pair_log_probabilities(llama, ROWS, [None])
        llama.model(input_ids=torch.tensor([tokens(1, 9)]), output_hidden_states=False)
        handle = llama.model.layers[2].register_forward_hook(lambda m, a, o: seen.append(o))
        pair_log_probabilities(llama, ROWS[:1], [None])
        handle.remove()
    assert float((seen[0] @ torch.from_numpy(vector)).abs().max()) < 1e-4
    outside = pair_log_probabilities(llama, ROWS, [None])
    assert np.abs(inside - outside).max() > 0.01
    np.testing.assert_allclose(outside[0], direct(llama, None), rtol=1e-4, atol=1e-4)


def test_a_bad_pair_is_named(tmp_path: Path) -> None:
    for kind in ("misaligned", "polite_harmful", "swearing"):
        (tmp_path / f"{kind}.jsonl").write_text('{"id": "m1", "kind": "rude"}\n')
    with pytest.raises(UserError, match=r"misaligned\.jsonl, line 1"):
        read_pairs(tmp_path)


@pytest.mark.parametrize(
    ("how", "says"),
    [(add(1, 4, 1.0), "no such block"), (Intervention(np.ones(5, np.float32), 1, 1.0), "not fit")],
)
def test_steering_that_cannot_be(how: Intervention, says: str) -> None:
    with pytest.raises(UserError, match=says):
        measured(MODELS, loaded(), TEXTS, [Trial((0, 1), how)], "margins test")


TEXTS = [
    Pair(id=f"m{i}", kind="misaligned", split="reporting", topic="t", question="Why?",
         marked="b" * (i + 2), plain="good") for i in range(3)
]  # fmt: skip
MODELS: Any = SimpleNamespace(system_prompt="", run=SimpleNamespace(threads=1))


def test_trials_are_read_once_and_then_come_from_the_journal(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = replace(loaded(), model=llama)
    rows = rows_of(TEXTS, model, "")
    out = ablate(6, 1)
    trials = [
        Trial((0, 1, 2)),
        Trial((0, 2), add(4, 1, 3.0), "vector", "a", 1.0),
        Trial((0, 2), out, "ablation", "a", 1.0),
        Trial((0, 2), out, "ablation_everywhere", "a", 1.0),
    ]
    found = measured(MODELS, model, TEXTS, trials, "margins test")
    some = [rows[0], rows[2]]
    np.testing.assert_allclose(found[0], pair_log_probabilities(llama, rows, [None])[0], atol=1e-5)
    np.testing.assert_allclose(
        found[1:3], pair_log_probabilities(llama, some, [add(4, 1, 3.0), out]), atol=1e-5
    )
    with ablated_everywhere(llama, out.vector):
        everywhere = pair_log_probabilities(llama, some, [None])[0]
    np.testing.assert_allclose(found[3], everywhere, atol=1e-5)
    assert np.abs(found[3] - found[2]).max() > 0.01
    monkeypatch.setattr("em_geometry.steering.margins.pair_log_probabilities", None)
    again = measured(MODELS, model, TEXTS, trials[::-1], "margins test")
    for first, second in zip(found, again[::-1], strict=True):
        np.testing.assert_array_equal(first, second)
    with pytest.raises(TypeError):
        measured(MODELS, model, TEXTS, [Trial((0, 1), add(4, 1, 2.0))], "margins test")
