"""Decoder blocks, found by structure and not by name, and a key-value cache with room to grow."""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache as Cache
from transformers.cache_utils import DynamicLayer

from em_geometry.errors import UserError

PLACED = ("bloom", "mpt")  # model types that count places in a row in place of positions


def decoder_blocks(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The model's decoder blocks in order: the one ModuleList as long as the config says.

    Raises:
        UserError: no such list, or more than one.
    """
    count = model.config.get_text_config().num_hidden_layers
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count]
    if len(lists) != 1:
        what, found = "cannot tell which modules are the decoder blocks", f"{len(lists)} lists of"
        raise UserError(
            what,
            where=type(model).__name__,
            found=f"{found} {count} modules",
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


def token_positions(mask: torch.Tensor) -> torch.Tensor:
    """Position of each token [batch, tokens] among those that the mask has, 0 for padding."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def windowed(
    model: PreTrainedModel, attention: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor | dict[str, torch.Tensor]:
    """A mask of our own as the model's blocks need it: those with a window see no further back.

    transformers takes a mask of four dimensions as it is, and then leaves the windows out.

    Args:
        attention: additive [rows, 1, tokens, tokens].
        positions: of the tokens [rows, tokens].
    Raises:
        UserError: the model knows positions only by the place in a row (ALiBi).
    """
    config = model.config.get_text_config()
    if config.model_type in PLACED or getattr(config, "alibi", False):
        raise UserError(
            "answers cannot be read side by side in this model",
            where=f"config.json of {type(model).__name__}",
            found=f"model_type {config.model_type}, which knows positions only by place (ALiBi)",
            expected="a model that takes position_ids",
            hint="measure another model",
        )
    window = getattr(config, "sliding_window", None)
    if not window or int(positions.max()) < window:
        return attention
    back = positions[:, None, :, None] - positions[:, None, None, :]
    near = attention.masked_fill(back >= window, torch.finfo(attention.dtype).min)
    if not getattr(config, "layer_types", None):  # all blocks alike
        return near
    return {"full_attention": attention, "sliding_attention": near}


def distinct(keys: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """Places of the first of each distinct key, and each key's index among those."""
    first: dict[Hashable, int] = {}
    for place, key in enumerate(keys):
        first.setdefault(key, place)
    number = {key: i for i, key in enumerate(first)}
    return list(first.values()), [number[key] for key in keys]


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values [rows, heads, tokens, width] as the front part of larger buffers.

    New tokens are written in place; nothing is copied per step.
    """

    def take(self, keys: torch.Tensor, values: torch.Tensor, tokens: int) -> None:
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self.buffers = (keys, values)
        self.keys, self.values = keys[:, :, :tokens], values[:, :, :tokens]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start = self.keys.shape[-2]
        stop = start + key_states.shape[-2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:stop] = states
        self.keys, self.values = (buffer[:, :, :stop] for buffer in self.buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        keys, values = (buffer[indices] for buffer in self.buffers)
        self.take(keys, values, self.keys.shape[-2])


def fill(
    layers: list[DynamicLayer],
    part: Cache,
    target: torch.Tensor,
    where: Sequence[torch.Tensor],
    rows: int,
    room: int,
) -> None:
    """Copies the cache of some prompts into the rows `target` of `layers` (made if empty).

    Args:
        part: cache of one forward pass.
        where: for each layer, the row in `part` for each of `target`.
        rows: all rows of the batch.
        room: tokens to leave space for.
    """
    fresh = not layers
    for i, layer in enumerate(part.layers):
        if not isinstance(layer, DynamicLayer):
            raise UserError("models without a key-value cache cannot be sampled", found=layer)
        if fresh:
            layers.append(RoomyLayer() if type(layer) is DynamicLayer else layer)
        if layer.keys is None:  # a layer that uses another one's cache
            continue
        sources = (layer.keys, layer.values)
        tokens = layer.keys.shape[-2]
        if fresh:
            keys, values = (
                old.new_empty(rows, old.shape[1], tokens + room, old.shape[-1]) for old in sources
            )
            if isinstance(layers[i], RoomyLayer):
                layers[i].take(keys, values, tokens)
            else:  # a sliding window drops what falls out, and so copies anyway
                layer.keys, layer.values = keys[:, :, :tokens], values[:, :, :tokens]
        for kept, source in zip((layers[i].keys, layers[i].values), sources, strict=True):
            kept[target] = source[where[i]]
