"""Span means of the residual stream, against the library's own hidden states and by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from families import BLOCKS, VOCABULARY, WIDTH, our_hooks, random_model

from em_geometry.activations.blocks import block_stack, decoder_blocks, hidden, replaced
from em_geometry.activations.capture import capture
from em_geometry.activations.prompts import Text
from em_geometry.errors import UserError
from em_geometry.models.chat import padded, sorted_batches

LENGTHS = (5, 9, 3, 12)


def texts() -> list[Text]:
    """Four texts of unequal length; spans: a middle part, the last token, all."""
    rng = np.random.default_rng(1)
    result = []
    for length in LENGTHS:
        ids = tuple(int(i) for i in rng.integers(1, VOCABULARY, length))
        result.append(Text(ids, ((1, length - 1), (length - 1, length), (0, length))))
    return result


def residual_stream(model: Any, ids: tuple[int, ...]) -> torch.Tensor:
    """[blocks, tokens, width] of one text without this package: hidden states, and what the
    final norm is given for the last block."""
    stack = model.base_model
    norm = stack.norm if hasattr(stack, "norm") else stack.final_layer_norm
    before: list[torch.Tensor] = []
    handle = norm.register_forward_pre_hook(lambda module, args: before.append(args[0]))
    with torch.no_grad():
        output = model(input_ids=torch.tensor([ids]), output_hidden_states=True)
    handle.remove()
    states = [*output.hidden_states[1:-1], before[0]]
    return torch.stack([s[0] for s in states])


def by_hand(model: Any, text: Text) -> tuple[torch.Tensor, torch.Tensor]:
    """Means [spans, blocks, width] and norms [spans, blocks] of one text."""
    states = residual_stream(model, text.ids)
    means = torch.stack([states[:, a:b].mean(1) for a, b in text.spans])
    norms = torch.stack([states[:, a:b].norm(dim=-1).mean(1) for a, b in text.spans])
    return means, norms


def test_shared_beginnings_change_nothing(model: Any) -> None:
    """Texts that begin alike, and others that share less or nothing, in one batch."""
    rng = np.random.default_rng(2)
    longer, shorter = (tuple(int(i) for i in rng.integers(1, VOCABULARY, n)) for n in (6, 3))
    batch = []
    for beginning, length in ((longer, 5), (shorter, 4), (longer, 2), ((), 7), (shorter, 1)):
        ids = (*beginning, *(int(i) for i in rng.integers(1, VOCABULARY, length)))
        spans = ((len(beginning), len(ids)), (len(ids) - 1, len(ids)))
        batch.append(Text(ids, spans, shared=len(beginning)))
    seen: list[int] = []
    first = decoder_blocks(model)[0]
    handle = first.register_forward_hook(lambda m, args, output: seen.append(len(args[0])))
    means, norms = capture(model, batch)
    handle.remove()
    assert seen == [3, len(batch)]  # the distinct beginnings, then the texts
    for i, text in enumerate(batch):
        expected_means, expected_norms = by_hand(model, text)
        torch.testing.assert_close(means[i], expected_means, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norms[i], expected_norms, rtol=1e-4, atol=1e-5)


def test_hidden_states_of_every_family_in_a_batch_and_alone(model: Any) -> None:
    means, norms = capture(model, texts())
    assert means.shape == (len(LENGTHS), 3, BLOCKS, WIDTH)
    assert norms.shape == (len(LENGTHS), 3, BLOCKS)
    assert not means.requires_grad and not norms.requires_grad
    for row, text in enumerate(texts()):
        alone = [found[0] for found in capture(model, [text])]
        for expected in (alone, by_hand(model, text)):
            torch.testing.assert_close([means[row], norms[row]], [*expected], rtol=1e-4, atol=1e-5)


def test_sums_are_float32_for_a_bfloat16_model(llama: Any) -> None:
    text = texts()[1]
    expected, _ = capture(llama, [text])
    try:
        found, norms = capture(llama.to(torch.bfloat16), [text])
    finally:
        llama.float()
    assert found.dtype == norms.dtype == torch.float32
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_hooks_leave_with_an_exception() -> None:
    llama = random_model("llama")
    hooks_during: list[int] = []

    def explode(*args: Any, **kwargs: Any) -> None:
        hooks_during.append(len(our_hooks(llama)))
        raise RuntimeError("out of memory")

    decoder_blocks(llama)[-1].forward = explode
    with pytest.raises(RuntimeError, match="out of memory"):
        capture(llama, texts())
    assert hooks_during == [BLOCKS]
    assert not our_hooks(llama)


def test_batches_hold_every_text_once_and_are_sorted() -> None:
    lengths = [7, 3, 7, 1, 3, 9, 2]
    batches = sorted_batches(lengths, 3)
    assert batches == [[3, 6, 1], [4, 0, 2], [5]]


@pytest.mark.parametrize(
    ("side", "ids", "mask"),
    [
        ("left", [[0, 0, 4], [5, 6, 7]], [[0, 0, 1], [1, 1, 1]]),
        ("right", [[4, 0, 0], [5, 6, 7]], [[1, 0, 0], [1, 1, 1]]),
    ],
)
def test_padding(side: str, ids: list[list[int]], mask: list[list[int]]) -> None:
    found_ids, found_mask = padded([(4,), (5, 6, 7)], side, "cpu")
    assert found_ids.tolist() == ids
    assert found_mask.tolist() == mask


def test_blocks_are_found_in_order_and_their_stack_has_no_head(model: Any) -> None:
    seen: list[Any] = []
    blocks = decoder_blocks(model)
    handles = [b.register_forward_hook(lambda m, a, o: seen.append(m)) for b in blocks]
    model(input_ids=torch.arange(5)[None])
    for handle in handles:
        handle.remove()
    assert len(blocks) == BLOCKS
    assert seen == blocks
    inner = list(block_stack(model).modules())
    assert model not in inner and model.get_output_embeddings() not in inner
    assert [m for m in inner if m in blocks] == blocks


def _fake(lists: list[int], count: int) -> Any:
    model = torch.nn.Module()
    for i, length in enumerate(lists):
        model.add_module(
            f"list_{i}", torch.nn.ModuleList(torch.nn.Identity() for _ in range(length))
        )
    text = SimpleNamespace(num_hidden_layers=count)
    model.config = SimpleNamespace(get_text_config=lambda: text)  # type: ignore[assignment]
    return model


def test_a_list_of_another_length_does_not_confuse() -> None:
    model = _fake([4, 2], count=4)
    assert decoder_blocks(model) == list(model.list_0)


@pytest.mark.parametrize("lists", [[], [3], [4, 4]])
def test_no_list_or_two_lists_are_an_error(lists: list[int]) -> None:
    with pytest.raises(UserError, match="decoder blocks"):
        decoder_blocks(_fake(lists, count=4))


def test_outputs_may_be_tensors_or_tuples() -> None:
    old, new = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    assert hidden(old) is old
    assert hidden((old, "weights")) is old
    assert replaced(old, new) is new
    assert replaced((old, "weights"), new) == (new, "weights")
