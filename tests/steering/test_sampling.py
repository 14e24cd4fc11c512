"""Sampling in batches, against a sampler that does one row and one full forward pass a token."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from tiny_steering import VOCABULARY, ablate, add, tokens

from em_geometry.errors import UserError
from em_geometry.settings import Sampling
from em_geometry.steering import answers as generate
from em_geometry.steering import reading as prefill
from em_geometry.steering.answers import Answer, Row, draw, sample, uniforms
from em_geometry.steering.conditions import Positions
from tests.activations.families import random_model

SAMPLING = Sampling(temperature=1.3, max_new_tokens=10)
SOME = frozenset(range(0, VOCABULARY, 6))  # end tokens that are met soon
NEVER: frozenset[int] = frozenset()
SHARED = [add(1, 1, 6.0), ablate(2, 2), add(3, 3, -4.0), add(1, 1, 0.0), None]


def mixed_rows(count: int = 12) -> list[Row]:
    """Rows of unequal prompts under adds, ablations, a zero and nothing, at several blocks."""
    return [Row(tokens(i % 5, 3 + i % 5), 1000 + i, SHARED[i % 5]) for i in range(count)]


def reference(
    model: Any, row: Row, end: frozenset[int], positions: Positions, sampling: Sampling = SAMPLING
) -> Answer:
    """One answer: no cache, no padding, no batch, steering by an explicit mask over all tokens."""
    how = row.intervention
    ids = list(row.ids)

    def steer(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        assert how is not None
        vector = torch.from_numpy(how.vector)
        changed = output.clone()
        for t in range(output.shape[1]):
            part = "prompt" if t < len(row.ids) else "response"
            if positions not in ("all", part):
                continue
            if how.mode == "add":
                changed[0, t] += how.coefficient * vector
            else:
                changed[0, t] -= (output[0, t] @ vector) * vector
        return changed

    handle = model.model.layers[how.layer].register_forward_hook(steer) if how else None
    finish = "length"
    try:
        for u in uniforms(row.stream, sampling.max_new_tokens):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            weights = np.exp((logits.numpy().astype(float) - float(logits.max())) / 1.3)
            token = int(np.searchsorted(np.cumsum(weights) / weights.sum(), u, side="right"))
            if token in end:
                finish = "stop"
                break
            ids.append(token)
    finally:
        if handle is not None:
            handle.remove()
    return Answer(tuple(ids[len(row.ids) :]), finish)


@contextmanager
def batch_sizes(model: Any) -> Iterator[list[tuple[int, int]]]:
    """(rows, tokens) of every forward pass made inside."""
    seen: list[tuple[int, int]] = []

    def look(module: Any, args: Any, kwargs: Any) -> None:
        seen.append(tuple(kwargs["input_ids"].shape))

    handle = model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize("positions", ["all", "prompt", "response"])
@pytest.mark.parametrize("end", [NEVER, SOME], ids=["no end", "ends"])
def test_a_mixed_batch_equals_full_forward_passes(
    llama: Any, positions: Positions, end: frozenset[int]
) -> None:
    rows = mixed_rows()
    found = sample(llama, rows, SAMPLING, end, positions)
    assert found == [reference(llama, row, end, positions) for row in rows]


def test_positions_matter(llama: Any) -> None:
    """Guards the test above: each choice of positions gives answers of its own."""
    rows = [Row(tokens(1, 5), i, add(1, 1, 6.0)) for i in range(6)]
    answers = {p: sample(llama, rows, SAMPLING, NEVER, p) for p in ("all", "prompt", "response")}
    free = sample(llama, [Row(r.ids, r.stream) for r in rows], SAMPLING, NEVER)
    assert len({tuple(a.ids for a in found) for found in [free, *answers.values()]}) == 4


def test_finished_rows_leave_the_batch(llama: Any) -> None:
    with batch_sizes(llama) as seen:
        sample(llama, mixed_rows(), SAMPLING, SOME)
    rows = [size for size, _ in seen[1:]]  # after the prompts were read
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] < 6 < rows[0]
    assert all(width == 1 for _, width in seen[1:])
    with batch_sizes(llama) as seen:
        found = sample(llama, mixed_rows(), SAMPLING, frozenset(range(VOCABULARY)))
    assert (found, len(seen)) == ([Answer((), "stop")] * 12, 1)  # none is left


def test_ends_and_lengths(llama: Any) -> None:
    free = sample(llama, mixed_rows(), SAMPLING, NEVER)
    assert all(len(a.ids) == SAMPLING.max_new_tokens and a.finish == "length" for a in free)
    third = free[0].ids[2]  # make what row 0 says third its end token
    ended = sample(llama, mixed_rows(), SAMPLING, frozenset({third}))
    assert ended[0] == Answer(free[0].ids[: free[0].ids.index(third)], "stop")
    for before, after in zip(free, ended, strict=True):
        if third not in before.ids:
            assert after == before


def test_an_end_token_at_the_last_step_is_a_stop(llama: Any) -> None:
    row = Row(tokens(0, 4), 5)
    answer = sample(llama, [row], SAMPLING, NEVER)[0]
    steps = next(i for i, t in enumerate(answer.ids) if t not in answer.ids[:i] and i > 0) + 1
    limited = Sampling(temperature=1.3, max_new_tokens=steps)
    ended = sample(llama, [row], limited, frozenset({answer.ids[steps - 1]}))[0]
    assert ended == Answer(answer.ids[: steps - 1], "stop")


@pytest.mark.parametrize(
    ("positions", "read"), [("all", 2 * 7), ("prompt", 2 * 7), ("response", 2)]
)
def test_equal_prompts_are_read_once(llama: Any, positions: Positions, read: int) -> None:
    """Two prompts, eight interventions (two do nothing), two samples each."""
    other = [add(1, 1, -6.0), add(1, 2, 6.0), ablate(1, 1)]  # another sign, block or mode
    rows = [
        Row(tokens(p, 4 + p), 100 * p + 10 * s + k, how)
        for p in range(2)
        for k, how in enumerate([*SHARED, *other])
        for s in range(2)
    ]
    with batch_sizes(llama) as seen:
        together = sample(llama, rows, SAMPLING, SOME, positions)
    assert seen[0] == (read, 5)
    assert together == [sample(llama, [row], SAMPLING, SOME, positions)[0] for row in rows]


def test_long_prompts_are_read_in_parts(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sample(llama, mixed_rows(), SAMPLING, SOME)
    monkeypatch.setitem(prefill.READ_TOKENS, "cpu", 14)
    with batch_sizes(llama) as seen:
        assert sample(llama, mixed_rows(), SAMPLING, SOME) == whole
    assert sum(width > 1 for _, width in seen) == 3  # five distinct prompts of 7 tokens


@pytest.mark.parametrize("step", [0, 3])
def test_out_of_memory_halves_and_keeps_what_is_finished(
    llama: Any, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """A device that fails above 3 rows, at once or in the middle of an answer."""
    rows = mixed_rows()
    whole = sample(llama, rows, SAMPLING, SOME)
    monkeypatch.setattr(generate, "_largest", {})
    asked: list[int] = []

    def limited(module: Any, args: Any, kwargs: Any) -> None:
        count = len(kwargs["input_ids"])
        asked.append(count)
        if count > 3 and len(asked) > step:
            raise torch.OutOfMemoryError("no more")

    handle = llama.register_forward_pre_hook(limited, with_kwargs=True)
    streams: list[int] = []
    original = generate.uniforms
    monkeypatch.setattr(generate, "uniforms", lambda s, n: streams.append(s) or original(s, n))
    try:
        assert sample(llama, rows, SAMPLING, SOME) == whole
        again = sample(llama, rows, SAMPLING, SOME)  # the size that fitted is remembered
    finally:
        handle.remove()
    assert again == whole
    finished = [r.stream for r, a in zip(rows, whole, strict=True) if len(a.ids) < step - 1]
    assert bool(finished) == (step > 0)
    assert all(streams[: -len(rows)].count(s) == 1 for s in finished)


def test_one_row_that_does_not_fit(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(generate, "_largest", {})
    monkeypatch.setattr(generate, "read", full)
    with pytest.raises(UserError, match="not enough memory"):
        sample(llama, mixed_rows(3), SAMPLING, SOME)


@pytest.mark.parametrize("family", ["gpt_neox", "qwen2", "qwen3", "gemma2", "gemma3"])
def test_other_architectures(family: str) -> None:
    """Steered prompts, sliding windows and caches of other families equal rows alone."""
    mixed = {"layer_types": ["sliding_attention", "full_attention"] * 2}
    model = random_model(family, VOCABULARY, 4, **(mixed if "gemma" in family else {}))
    rows = mixed_rows()
    found = sample(model, rows, SAMPLING, SOME)
    assert found == [sample(model, [row], SAMPLING, SOME)[0] for row in rows]
    free = sample(model, [Row(r.ids, r.stream) for r in rows], SAMPLING, SOME)
    assert free != found


def test_uniforms_are_a_prefix_of_the_stream() -> None:
    assert uniforms(5, 3).tolist() == uniforms(5, 8)[:3].tolist()
    assert not np.isin(uniforms(5, 8), uniforms(6, 8)).any()
    many = uniforms(2**100, 1000)
    assert (many >= 0).all()
    assert (many < 1).all()


@pytest.mark.parametrize("size", [5, 256])  # of the last, the last token would be drawn
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(size: int, value: float) -> None:
    logits = torch.zeros(3, size)
    logits[1, 2] = value
    with pytest.raises(UserError, match="not finite") as caught:
        draw(logits, torch.zeros(3, dtype=torch.float64), 1.0)
    assert "1 of 3" in str(caught.value) and "lower the dose" in str(caught.value)


def test_draw_is_the_inverse_distribution_function() -> None:
    shares = np.array([0.1, 0.0, 0.4, 0.2, 0.3])
    with np.errstate(divide="ignore"):
        logits = torch.from_numpy(np.log(shares)).repeat(7, 1)
    u = torch.tensor([0.0, 0.0999, 0.1001, 0.4999, 0.5001, 0.6999, 0.9999], dtype=torch.float64)
    assert draw(logits, u, 1.0).tolist() == [0, 0, 2, 2, 3, 3, 4]
