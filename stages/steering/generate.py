"""Sampling many conditions in one batch, each answer from a random stream of its own.

A token is drawn by inverting the cumulative distribution at a uniform number of the answer's
own counter-based stream, so an answer does not depend on which others share its batch (up to
the last bits of the logits). Prompts that many rows share under the same intervention are read
once; finished rows leave the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from stages.activations.capture import padded
from stages.common.params import Sampling
from stages.steering.hooks import Intervention, steered

Positions = Literal["all", "prompt", "response"]
DROP_SHARE = 0.75  # the batch is narrowed when fewer than this share of its rows still run


@dataclass(frozen=True, eq=False)
class Row:
    """One answer to sample.

    Attributes:
        ids: prompt token ids, up to the assistant header.
        stream: key of the answer's random stream.
        intervention: steering of this row, or None.
    """

    ids: tuple[int, ...]
    stream: int
    intervention: Intervention | None = None


@dataclass(frozen=True)
class Answer:
    """Sampled token ids (without the end token) and why sampling ended (stop | length)."""

    ids: tuple[int, ...]
    finish: str


def uniforms(stream: int, count: int) -> np.ndarray:
    """The first `count` numbers in [0, 1) of a stream."""
    return np.random.Generator(np.random.Philox(key=stream)).random(count)


def draw(logits: Any, u: Any, temperature: float) -> Any:
    """Tokens [batch] at the quantiles `u` [batch] of softmax(logits / temperature)."""
    import torch

    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    cumulative = probabilities.cumsum(-1)
    target = (u * cumulative[:, -1]).unsqueeze(-1)
    tokens = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    return tokens.clamp(max=logits.shape[-1] - 1)


def _unique_prompts(rows: Sequence[Row], positions: Positions) -> tuple[list[int], list[int]]:
    """Rows to read (one for each prompt and intervention on it) and each row's index there."""
    first: dict[tuple[Any, ...], int] = {}
    representatives: list[int] = []
    index: list[int] = []
    for i, row in enumerate(rows):
        how = row.intervention
        acts = how is not None and how.active and positions != "response"
        key: tuple[Any, ...] = (row.ids,)
        if acts and how is not None:
            key += (id(how.vector), how.layer, how.coefficient, how.mode)
        if key not in first:
            first[key] = len(representatives)
            representatives.append(i)
        index.append(first[key])
    return representatives, index


def sample(
    model: Any,
    rows: Sequence[Row],
    sampling: Sampling,
    end: frozenset[int],
    positions: Positions = "all",
) -> list[Answer]:
    """Samples an answer for each row of one batch.

    Args:
        model: causal language model in evaluation mode.
        rows: the batch.
        sampling: temperature and number of new tokens.
        end: token ids that end an answer.
        positions: tokens that interventions act on.
    """
    import torch

    device = model.device
    representatives, index = _unique_prompts(rows, positions)
    reading = [rows[i] for i in representatives]
    ids, mask = padded([r.ids for r in reading], "left", device)
    with torch.no_grad(), steered(model, [r.intervention for r in reading]) as steering:
        prompt_steered = positions in ("all", "prompt")
        steering.mask = mask.bool() if prompt_steered else torch.zeros_like(mask).bool()
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
    gather = torch.tensor(index, device=device)
    cache = output.past_key_values
    cache.batch_select_indices(gather)
    return _decode(
        model, rows, sampling, end, positions, cache, mask[gather], output.logits[gather, -1]
    )


def _decode(
    model: Any,
    rows: Sequence[Row],
    sampling: Sampling,
    end: frozenset[int],
    positions: Positions,
    cache: Any,
    mask: Any,
    logits: Any,
) -> list[Answer]:
    import torch

    device = model.device
    steps = sampling.max_new_tokens
    u = torch.from_numpy(np.stack([uniforms(r.stream, steps) for r in rows])).to(device)
    ends = torch.tensor(sorted(end), device=device)
    tokens = torch.full((len(rows), steps), -1, dtype=torch.long, device=device)
    alive = torch.arange(len(rows), device=device)  # original index of each row in the batch
    running = torch.ones(len(rows), dtype=torch.bool, device=device)
    lengths = mask.sum(-1)
    with torch.no_grad(), steered(model, [r.intervention for r in rows]) as steering:
        for step in range(steps):
            chosen = draw(logits, u[alive, step], sampling.temperature)
            running &= ~torch.isin(chosen, ends)
            tokens[alive[running], step] = chosen[running]
            if step == steps - 1 or not bool(running.any()):
                break
            if float(running.float().mean()) < DROP_SHARE:
                keep = running.nonzero().squeeze(-1)
                cache.batch_select_indices(keep)
                steering.keep(keep)
                alive, chosen, running = alive[keep], chosen[keep], running[keep]
                mask, lengths = mask[keep], lengths[keep]
            mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=-1)
            steering.mask = torch.full(
                (len(alive), 1), positions in ("all", "response"), device=device
            )
            logits = model(
                input_ids=chosen.unsqueeze(-1),
                attention_mask=mask,
                position_ids=(lengths + step).unsqueeze(-1),
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
    return [
        Answer(tuple(t for t in row if t >= 0), "stop" if -1 in row else "length")
        for row in tokens.tolist()
    ]
