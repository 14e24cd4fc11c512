"""A KV cache with room to grow: new tokens are written in place, nothing is copied per step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers.cache_utils import Cache as Cache
from transformers.cache_utils import DynamicLayer

from em_geometry.errors import UserError

if TYPE_CHECKING:
    import torch


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values [rows, heads, tokens, width] as the front part of larger buffers."""

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
