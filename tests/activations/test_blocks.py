"""Decoder blocks are found by what the model is made of, whatever it is called."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import BLOCKS

from em_geometry.activations.blocks import block_stack, decoder_blocks, hidden, replaced
from em_geometry.errors import UserError


def test_blocks_are_found_in_order(model: Any) -> None:
    seen: list[Any] = []
    blocks = decoder_blocks(model)
    handles = [b.register_forward_hook(lambda m, a, o: seen.append(m)) for b in blocks]
    model(input_ids=torch.arange(5)[None])
    for handle in handles:
        handle.remove()
    assert len(blocks) == BLOCKS
    assert seen == blocks


def test_the_stack_has_no_head(model: Any) -> None:
    stack = block_stack(model)
    assert stack is not model
    assert decoder_blocks(model) == [m for m in stack.modules() if m in decoder_blocks(model)]
    assert model.get_output_embeddings() not in list(stack.modules())


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
