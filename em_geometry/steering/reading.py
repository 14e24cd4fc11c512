"""Prompts read once into a cache, and given answers read behind them (teacher forcing).

Below the block at which two rows of the same prompt are steered differently their hidden states
are the same, so the forward pass starts with the distinct prompts and branches at the output of
each steered block. With `response` positions, or without steering, it never branches.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch.nn.functional import cross_entropy, pad
from transformers import PreTrainedModel

from em_geometry.activations.blocks import (
    Cache,
    check_blocks,
    decoder_blocks,
    distinct,
    fill,
    hidden,
    replaced,
    token_positions,
)
from em_geometry.errors import UserError
from em_geometry.models.chat import padded
from em_geometry.steering.conditions import Intervention
from em_geometry.steering.hooks import Steering

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
    blocks = decoder_blocks(model)
    check_blocks([how.layer for _, how in prompts if how], len(blocks), "an intervention")
    prompts = [(ids, how if how is not None and how.active else None) for ids, how in prompts]
    ids, mask = padded([ids for ids, _ in prompts], "left", model.device)
    leaves, leaf_of = distinct([_key(p, len(blocks)) for p in prompts])
    rows_of: dict[int, list[int]] = {}
    for row, number in enumerate(leaf_of):
        rows_of.setdefault(leaves[number], []).append(row)
    leaves.sort(key=lambda i: (prompts[i][0], how.layer if (how := prompts[i][1]) else -1))
    size = max(1, READ_TOKENS.get(model.device.type, READ_TOKENS_GPU) // ids.shape[1])
    layers: list[Any] = []
    logits: Any = None
    for start in range(0, len(leaves), size):
        part = leaves[start : start + size]
        output, where = _branching(model, blocks, [prompts[i] for i in part], ids[part], mask[part])
        target = torch.tensor([r for i in part for r in rows_of[i]], device=model.device)
        leaf = torch.tensor([k for k, i in enumerate(part) for _ in rows_of[i]]).to(model.device)
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
    levels = [distinct([_key(p, depth) for p in prompts]) for depth in range(len(blocks) + 1)]
    firsts, where = (
        [torch.tensor(level[k], device=model.device) for level in levels] for k in (0, 1)
    )
    first = firsts[0]
    layers = sorted({how.layer for _, how in prompts if how is not None})

    def branch(layer: int) -> Any:
        after = firsts[layer + 1]
        hows = [prompts[i][1] for i in levels[layer + 1][0]]
        steering = Steering(model, [h if h and h.layer == layer else None for h in hows])
        steering.mask = mask[after].bool()

        def hook(module: Any, args: Any, output: Any) -> Any:
            states = hidden(output)[where[layer][after]]
            return replaced(output, steering.apply(layer, states))

        return hook

    def widen(depth: int) -> Any:
        prompt_of = where[0][firsts[depth]]

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
    if len(output.logits) != len(firsts[-1]):
        what = "this architecture passes its batch to the blocks in a way that is not known here"
        raise UserError(what, where=type(model).__name__)
    return output, where


def _rows(value: Any, index: torch.Tensor, size: int) -> Any:
    """Masks and position tensors of the distinct prompts, widened to a block's batch."""
    if isinstance(value, tuple):
        return tuple(_rows(v, index, size) for v in value)
    if isinstance(value, torch.Tensor) and value.ndim > 1 and 1 < size == len(value):
        return value[index]
    return value  # a batch of one broadcasts


def forced(
    model: PreTrainedModel, texts: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reads a batch of (prompt, answer) token ids, one token or more each.

    Returns:
        mask of the answers, padded at the right, and the log-probabilities of their own tokens,
        float32, in nats; both [answers, tokens].
    """
    ids, mask = padded([answer for _, answer in texts], "right", model.device)
    cache, before, first = read(model, [(tuple(ids), None) for ids, _ in texts], ids.shape[1])
    with torch.no_grad():
        rest = model(
            input_ids=ids,
            attention_mask=torch.cat([before, mask], dim=-1),
            position_ids=before.sum(-1, keepdim=True) + torch.arange(ids.shape[1]).to(ids.device),
            past_key_values=cache,
            use_cache=True,
        ).logits
    start = cross_entropy(first.float(), ids[:, 0], reduction="none")
    following = pad(ids[:, 1:], (0, 1))  # the last logits are unused
    after = cross_entropy(rest.float().flatten(0, 1), following.flatten(), reduction="none")
    return mask, -torch.cat([start[:, None], after.view_as(following)[:, :-1]], dim=1)
