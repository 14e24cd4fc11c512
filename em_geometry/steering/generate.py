"""Sampling many conditions in one batch, each answer from a random stream of its own.

A token is drawn by inverting the cumulative distribution at a uniform number of the answer's
own counter-based stream, so an answer does not depend on which others share its batch (up to
the last bits of the logits). What prompts share is read once (prefill.py); finished rows leave
the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from em_geometry.errors import UserError
from em_geometry.settings import Sampling
from em_geometry.steering.hooks import Intervention, steering_rows
from em_geometry.steering.prefill import read

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Positions = Literal["all", "prompt", "response"]
BLOCK = 128  # tokens whose probabilities are first summed
DROP_SHARE = 0.9  # the batch is narrowed when fewer than this share of its rows still run


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


def uniforms(stream: int, count: int) -> npt.NDArray[np.float64]:
    """The first `count` numbers in [0, 1) of a stream."""
    return np.random.Generator(np.random.Philox(key=stream)).random(count)


def draw(logits: torch.Tensor, u: torch.Tensor, temperature: float) -> torch.Tensor:
    """Tokens [batch] at the quantiles `u` [batch] of softmax(logits / temperature).

    The quantile is first found among sums of BLOCK tokens, then inside one block, so that only
    these two short sums run in float64 and nothing is sorted.
    """
    import torch

    weights = logits.float().div(temperature)
    weights = weights.sub_(weights.amax(-1, keepdim=True)).exp_()
    if weights.shape[-1] % BLOCK:
        weights = torch.nn.functional.pad(weights, (0, -weights.shape[-1] % BLOCK))
    weights = weights.reshape(len(weights), -1, BLOCK)
    sums = weights.sum(-1).double()
    block, rest = _quantile(sums, u)
    inside = weights[torch.arange(len(block), device=block.device), block].double()
    share = rest / sums.gather(-1, block.unsqueeze(-1)).squeeze(-1)
    return block * BLOCK + _quantile(inside, share)[0]


def _quantile(weights: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Index [batch] at quantile `u` of `weights` [batch, n], and the weight left inside it."""
    import torch

    upper = weights.cumsum(-1)
    target = (u * upper[:, -1]).unsqueeze(-1)
    index = torch.searchsorted(upper, target, right=True).clamp(max=weights.shape[-1] - 1)
    rest = target - upper.gather(-1, index) + weights.gather(-1, index)
    return index.squeeze(-1), rest.squeeze(-1).clamp(min=0)


def sample(
    model: PreTrainedModel,
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

    size = min(len(rows), _largest.get(str(model.device), len(rows)))
    answers: list[Answer | None] = [None] * len(rows)
    if size == len(rows):
        try:
            _attempt(model, rows, sampling, end, positions, answers)
        except torch.OutOfMemoryError:  # tried again below, once its tensors are gone
            if len(rows) == 1:
                raise UserError(
                    "not enough memory for a batch of one answer",
                    where=f"device {model.device}",
                    hint="lower sampling.max_new_tokens, or use a larger device",
                ) from None
            size = _largest[str(model.device)] = len(rows) // 2
    left = [i for i, answer in enumerate(answers) if answer is None]
    for start in range(0, len(left), size):
        some = left[start : start + size]
        fresh = sample(model, [rows[i] for i in some], sampling, end, positions)
        for i, answer in zip(some, fresh, strict=True):
            answers[i] = answer
    return [a for a in answers if a is not None]


_largest: dict[str, int] = {}  # rows that fitted into a device's memory, once some did not


def _attempt(
    model: PreTrainedModel,
    rows: Sequence[Row],
    sampling: Sampling,
    end: frozenset[int],
    positions: Positions,
    answers: list[Answer | None],
) -> None:
    """Fills `answers`, each as soon as it is finished."""
    import torch

    prompts = [(r.ids, None if positions == "response" else r.intervention) for r in rows]
    cache, mask, logits = read(model, prompts, sampling.max_new_tokens)
    device = model.device
    steps = sampling.max_new_tokens
    u = torch.from_numpy(np.stack([uniforms(r.stream, steps) for r in rows])).to(device)
    ends = torch.tensor(sorted(end), device=device)
    tokens = torch.zeros((len(rows), steps), dtype=torch.long, device=device)
    alive = torch.arange(len(rows), device=device)  # original index of each row in the batch
    running = torch.ones(len(rows), dtype=torch.bool, device=device)
    lengths = mask.sum(-1)

    def finish(which: torch.Tensor, length: int, why: str) -> None:
        for i in alive[which].tolist():
            answers[i] = Answer(tuple(tokens[i, :length].tolist()), why)

    with torch.no_grad(), steering_rows(model, [r.intervention for r in rows]) as steering:
        for step in range(steps):
            chosen = draw(logits, u[alive, step], sampling.temperature)
            stopping = running & torch.isin(chosen, ends)
            finish(stopping, step, "stop")
            running &= ~stopping
            tokens[alive, step] = chosen
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
        finish(running, steps, "length")
