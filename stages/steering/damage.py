"""Damage of steering: KL(unsteered || steered) on benign text, nats per token.

METHOD.md: Steering, damage. Teacher-forced on the target's own unsteered answers to benign
prompts; the mean over answer tokens of the divergence between next-token distributions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stages.activations.capture import padded
from stages.steering.generate import Positions
from stages.steering.hooks import Intervention, steered


def answer_log_probabilities(
    model: Any,
    texts: Sequence[tuple[tuple[int, ...], int]],
    interventions: Sequence[Intervention | None],
    positions: Positions,
) -> list[Any]:
    """Next-token log-probabilities [answer tokens, vocabulary] of each text, float32.

    Args:
        texts: (ids, start) with the answer at ids[start:].
        interventions: one for each text.
    """
    import torch

    ids, mask = padded([t for t, _ in texts], "right", model.device)
    starts = torch.tensor([s for _, s in texts], device=model.device).unsqueeze(-1)
    token = torch.arange(ids.shape[1], device=model.device).unsqueeze(0)
    where = {
        "all": mask.bool(),
        "prompt": mask.bool() & (token < starts),
        "response": mask.bool() & (token >= starts),
    }
    with torch.no_grad(), steered(model, interventions) as steering:
        steering.mask = where[positions]
        first = min(start for _, start in texts) - 1  # no logits before any answer
        logits = model(
            input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=ids.shape[1] - first
        ).logits
    return [
        torch.log_softmax(logits[i, start - 1 - first : len(t) - 1 - first].float(), dim=-1)
        for i, (t, start) in enumerate(texts)
    ]


def kl_per_token(reference: Sequence[Any], steered_: Sequence[Any]) -> float:
    """Mean KL(reference || steered) over all answer tokens, in nats."""
    total, count = 0.0, 0
    for p, q in zip(reference, steered_, strict=True):
        total += float((p.exp() * (p - q)).sum())
        count += len(p)
    return max(0.0, total / count)
