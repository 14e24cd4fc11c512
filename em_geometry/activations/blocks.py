"""Decoder blocks, found by structure and not by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from em_geometry.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def decoder_blocks(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The model's decoder blocks in order: the one ModuleList as long as the config says.

    Raises:
        UserError: no such list, or more than one.
    """
    import torch

    count = model.config.get_text_config().num_hidden_layers
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count]
    if len(lists) != 1:
        raise UserError(
            "cannot tell which modules are the decoder blocks",
            where=type(model).__name__,
            found=f"{len(lists)} lists of {count} modules",
            expected="exactly one",
        )
    return list(lists[0])


def check_blocks(layers: Iterable[int], blocks: int, where: str) -> None:
    """Raises UserError when a block is named that a model of so many does not have."""
    beyond = [layer for layer in layers if not 0 <= layer < blocks]
    if beyond:
        raise UserError(
            "no such block in the model", where=where, found=beyond, expected=f"0 to {blocks - 1}"
        )


def hidden(output: Any) -> torch.Tensor:
    """Hidden states [batch, tokens, width] of a block's output, a tensor or a tuple."""
    states: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return states


def replaced(output: Any, states: torch.Tensor) -> Any:
    """A block's output with its hidden states replaced."""
    return (states, *output[1:]) if isinstance(output, tuple) else states


def block_stack(model: PreTrainedModel) -> torch.nn.Module:
    """The model without its language-model head."""
    stack: torch.nn.Module = getattr(model, model.base_model_prefix)
    return stack
