"""Decoder blocks, found by structure and not by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from em_geometry.errors import UserError


def decoder_blocks(model: Any) -> list[Any]:
    """The model's decoder blocks in order: the one ModuleList as long as the config says.

    Raises:
        UserError: no such list, or more than one.
    """
    import torch

    count = model.config.get_text_config().num_hidden_layers
    found = [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == count
    ]
    if len(found) != 1:
        raise UserError(
            "cannot tell which modules are the decoder blocks",
            where=type(model).__name__,
            found=f"{len(found)} lists of {count} modules",
            expected="exactly one",
        )
    return list(found[0])


def check_blocks(layers: Iterable[int], blocks: int, where: str) -> None:
    """Raises UserError when a block is named that a model of so many does not have."""
    beyond = [layer for layer in layers if layer >= blocks]
    if beyond:
        raise UserError(
            "no such block in the model",
            where=f"params.yaml: {where}",
            found=beyond,
            expected=f"0 to {blocks - 1}",
        )


def hidden(output: Any) -> Any:
    """Hidden states [batch, tokens, width] of a block's output, a tensor or a tuple."""
    return output[0] if isinstance(output, tuple) else output


def replaced(output: Any, states: Any) -> Any:
    """A block's output with its hidden states replaced."""
    return (states, *output[1:]) if isinstance(output, tuple) else states


def block_stack(model: Any) -> Any:
    """The model without its language-model head."""
    return getattr(model, model.base_model_prefix)
