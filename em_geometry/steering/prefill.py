"""Prompts read once: rows of a batch share every block below the one that steers them apart.

Below the block at which two rows of the same prompt are steered differently their hidden states
are the same, so the forward pass starts with the distinct prompts and branches at the output of
each steered block. With `response` positions, or without steering, it never branches.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from em_geometry.activations.blocks import decoder_blocks, hidden, replaced
from em_geometry.activations.capture import distinct, padded, token_positions
from em_geometry.errors import UserError
from em_geometry.steering.hooks import Intervention, Steering, check_layers

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from transformers.cache_utils import Cache

# Tokens of one forward pass. Larger ones are slower on a CPU, whose caches they overflow.
READ_TOKENS = {"cpu": 640}
READ_TOKENS_GPU = 16_384

Prompt = tuple[tuple[int, ...], Intervention | None]


def _key(prompt: Prompt, depth: int) -> Hashable:
    """What the input of block `depth` depends on."""
    ids, how = prompt
    if how is None or how.layer >= depth:
        return ids
    return ids, id(how.vector), how.layer, how.coefficient, how.mode


def read(
    model: PreTrainedModel, prompts: Sequence[Prompt], room: int
) -> tuple[Cache, torch.Tensor, torch.Tensor]:
    """Reads prompts, left-padded to a common length.

    Args:
        prompts: (ids, steering of the prompt or None); equal ones are read once.
        room: tokens that each row's KV cache can grow by without being copied.
    Returns:
        cache, attention mask [prompts, tokens], logits of the next token [prompts, vocabulary].
    """
    import torch

    from em_geometry.activations.cache import Cache, fill

    blocks = decoder_blocks(model)
    check_layers([how for _, how in prompts], len(blocks))
    prompts = [(ids, how if how is not None and how.active else None) for ids, how in prompts]
    ids, mask = padded([ids for ids, _ in prompts], "left", model.device)
    leaves, _ = distinct([_key(p, len(blocks)) for p in prompts])
    leaves.sort(key=lambda i: (prompts[i][0], how.layer if (how := prompts[i][1]) else -1))
    tokens = READ_TOKENS.get(model.device.type, READ_TOKENS_GPU)
    size = max(1, tokens // ids.shape[1])
    rows_of: dict[Hashable, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows_of.setdefault(_key(prompt, len(blocks)), []).append(row)
    layers: list[Any] = []
    logits: Any = None
    for start in range(0, len(leaves), size):
        part = leaves[start : start + size]
        some = [prompts[i] for i in part]
        output, where = _branching(model, blocks, some, ids[part], mask[part])
        rows = [rows_of[_key(p, len(blocks))] for p in some]
        target = torch.tensor([r for group in rows for r in group], device=model.device)
        leaf = torch.tensor([i for i, g in enumerate(rows) for _ in g], device=model.device)
        if logits is None:
            logits = output.logits.new_empty(len(prompts), output.logits.shape[-1])
        logits[target] = output.logits[leaf, -1]
        fill(layers, output.past_key_values, target, [w[leaf] for w in where], len(prompts), room)
    return Cache(layers=layers), mask, logits


def _branching(
    model: PreTrainedModel,
    blocks: Sequence[torch.nn.Module],
    prompts: Sequence[Prompt],
    ids: torch.Tensor,
    mask: torch.Tensor,
) -> tuple[Any, list[torch.Tensor]]:
    """One forward pass; the model's output, and each prompt's row in the batch of each block."""
    import torch

    device = model.device
    levels = [distinct([_key(p, depth) for p in prompts]) for depth in range(len(blocks) + 1)]
    where = [torch.tensor(index, device=device) for _, index in levels]
    first = torch.tensor(levels[0][0], device=device)
    layers = sorted({how.layer for _, how in prompts if how is not None})

    def branch(layer: int) -> Any:
        after = torch.tensor(levels[layer + 1][0], device=device)
        hows = [prompts[i][1] for i in levels[layer + 1][0]]
        steering = Steering(
            model, [h if h is not None and h.layer == layer else None for h in hows]
        )
        steering.mask = mask[after].bool()

        def hook(module: Any, args: Any, output: Any) -> Any:
            states = hidden(output)[where[layer][after]]
            return replaced(output, steering.apply(layer, states))

        return hook

    def widen(depth: int) -> Any:
        prompt_of = where[0][torch.tensor(levels[depth][0], device=device)]

        def hook(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            return args, {k: _rows(v, prompt_of, len(first)) for k, v in kwargs.items()}

        return hook

    with torch.no_grad(), ExitStack() as stack:
        for layer in layers:
            stack.callback(blocks[layer].register_forward_hook(branch(layer)).remove)
        for depth in range(layers[0] + 1 if layers else len(blocks), len(blocks)):
            handle = blocks[depth].register_forward_pre_hook(widen(depth), with_kwargs=True)
            stack.callback(handle.remove)
        some = mask[first]
        output = model(
            input_ids=ids[first],
            attention_mask=some,
            position_ids=token_positions(some),
            use_cache=True,
            logits_to_keep=1,
        )
    if len(output.logits) != len(levels[-1][0]):
        raise UserError(
            "this architecture passes its batch to the blocks in a way that is not known here",
            where=type(model).__name__,
        )
    return output, where


def _rows(value: Any, index: torch.Tensor, size: int) -> Any:
    """Masks and position tensors of the distinct prompts, widened to a block's batch."""
    import torch

    if isinstance(value, tuple):
        return tuple(_rows(v, index, size) for v in value)
    if isinstance(value, torch.Tensor) and value.ndim > 1 and 1 < size == len(value):
        return value[index]
    return value  # a batch of one broadcasts
