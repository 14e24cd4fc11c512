"""Prompts read once into a cache, and given answers read behind them (teacher forcing)."""

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy, pad
from transformers import PreTrainedModel

from em_geometry.activations.blocks import Cache, distinct, fill, token_positions
from em_geometry.models.chat import padded
from em_geometry.steering.conditions import Intervention
from em_geometry.steering.hooks import steering_rows

# Tokens of one forward pass. Larger ones are slower on a CPU, whose caches they overflow.
READ_TOKENS = {"cpu": 640}
READ_TOKENS_GPU = 16_384

Prompt = tuple[tuple[int, ...], Intervention | None]


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
    ids, mask = padded([ids for ids, _ in prompts], "left", model.device)
    firsts, index = distinct([_key(*prompt) for prompt in prompts])
    rows_of: dict[int, list[int]] = {}
    for row, number in enumerate(index):
        rows_of.setdefault(firsts[number], []).append(row)
    size = max(1, READ_TOKENS.get(model.device.type, READ_TOKENS_GPU) // ids.shape[1])
    layers: list[Any] = []
    logits: Any = None
    for start in range(0, len(firsts), size):
        part = firsts[start : start + size]
        seen = mask[part]
        with torch.no_grad(), steering_rows(model, [prompts[i][1] for i in part]) as steering:
            steering.mask = seen.bool()
            output = model(
                input_ids=ids[part],
                attention_mask=seen,
                position_ids=token_positions(seen),
                use_cache=True,
                logits_to_keep=1,
            )
        target = torch.tensor([r for i in part for r in rows_of[i]], device=model.device)
        source = torch.tensor([k for k, i in enumerate(part) for _ in rows_of[i]]).to(model.device)
        if logits is None:
            logits = output.logits.new_empty(len(prompts), output.logits.shape[-1])
        logits[target] = output.logits[source, -1]
        cache = output.past_key_values
        fill(layers, cache, target, [source] * len(cache.layers), len(prompts), room)
    return Cache(layers=layers), mask, logits


def _key(ids: tuple[int, ...], how: Intervention | None) -> Hashable:
    """What a prompt's cache depends on."""
    if how is None or not how.active:
        return ids
    return ids, id(how.vector), how.layer, how.coefficient, how.mode


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
