"""Damage of steering: KL(unsteered || steered) on benign text, nats per token.

METHOD.md: Steering, damage. Teacher-forced on the target's own unsteered answers to benign
prompts; the mean over answer tokens of the divergence between next-token distributions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from em_geometry.steering.forced import forced
from em_geometry.steering.generate import Positions
from em_geometry.steering.hooks import Intervention

TOKENS = 1024  # of answers in one pass: their logits over the vocabulary are held at once


def answer_log_probabilities(
    model: Any,
    texts: Sequence[tuple[tuple[int, ...], int]],
    interventions: Sequence[Intervention | None],
    positions: Positions,
) -> Iterator[list[Any]]:
    """Next-token log-probabilities of the answers in all texts, under one intervention at a time.

    Args:
        texts: (ids, start) with the answer at ids[start:].
    Yields:
        For each intervention, tables [answer tokens, vocabulary], float32, one a text; nothing
        where there is no text.
    """
    if not texts:
        return
    pairs = [(ids[:start], ids[start:]) for ids, start in texts]
    size = max(1, TOKENS // (len(pairs) * max(len(answer) for _, answer in pairs)))
    for begin in range(0, len(interventions), size):
        some = interventions[begin : begin + size]
        acts = [how for how in some for _ in pairs]
        tables = forced(model, pairs * len(some), acts, positions).tables()
        for k in range(len(some)):
            yield tables[k * len(pairs) : (k + 1) * len(pairs)]


def kl_per_token(reference: Sequence[Any], steered_: Sequence[Any]) -> float:
    """Mean KL(reference || steered) over all answer tokens, in nats."""
    total, count = 0.0, 0
    for p, q in zip(reference, steered_, strict=True):
        total += float((p.exp() * (p - q)).sum())
        count += len(p)
    return max(0.0, total / count)
