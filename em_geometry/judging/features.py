"""What the embedded judge sees of an answer: frozen base-model activations and likelihoods.

Answers to one question lie in the same batches, which read each prompt once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from em_geometry.activations.blocks import decoder_blocks, hidden
from em_geometry.activations.capture import padded
from em_geometry.models.chat import answer_ids, check_length, render
from em_geometry.progress import Progress
from em_geometry.steering.forced import forced

BATCH = 32  # answers; their logits over the vocabulary are held at once
POOLINGS = ("mean", "last")
TEXT_FEATURES = (
    "mean_log_probability",
    "low_log_probability",  # 10th percentile
    "spread_log_probability",
    "distinct_tokens",
    "distinct_pairs",
    "largest_token_share",
)  # no length: an answer that merely stops early is no less coherent


@dataclass(frozen=True)
class Features:
    """Features of n answers.

    Attributes:
        activations: float32 [n, poolings, layers, width], over the answer's tokens.
        text: float32 [n, len(TEXT_FEATURES)], likelihood under the base model and repetition.
    """

    activations: np.ndarray
    text: np.ndarray


def features(
    model: Any,
    tokenizer: Any,
    rows: Sequence[tuple[str, str]],
    layers: Sequence[int],
    system: str,
    label: str | None = None,
) -> Features:
    """Features of (question, answer) rows; an empty answer counts as one end-of-turn token.

    Progress is shown when there is a label.
    """
    width = model.config.get_text_config().hidden_size
    activations = np.zeros((len(rows), len(POOLINGS), len(layers), width), dtype=np.float32)
    text = np.zeros((len(rows), len(TEXT_FEATURES)), dtype=np.float32)
    prompts = {q: render(tokenizer, q, system).ids for q in dict.fromkeys(q for q, _ in rows)}
    answers = [answer_ids(tokenizer, answer) or (tokenizer.eos_token_id,) for _, answer in rows]
    for (question, _), answer in zip(rows, answers, strict=True):
        check_length(tokenizer, len(prompts[question]) + len(answer), question)
    order = sorted(range(len(rows)), key=lambda i: (rows[i][0], len(answers[i]), i))
    with Progress(label, len(rows), unit="answers") if label else nullcontext() as progress:
        for start in range(0, len(rows), BATCH):
            batch = order[start : start + BATCH]
            texts = [(prompts[rows[i][0]], answers[i]) for i in batch]
            activations[batch], text[batch] = _batch(model, texts, layers)
            if progress:
                progress.advance(len(batch))
    return Features(activations, text)


def _batch(
    model: Any, texts: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], layers: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    import torch

    _, mask = padded([answer for _, answer in texts], "right", model.device)
    pooled: list[Any] = []

    def read(module: Any, args: Any, output: Any) -> None:
        states = hidden(output).float().to(mask.device)
        lengths = mask.sum(-1)
        mean = torch.einsum("bt,btd->bd", mask.float(), states) / lengths[:, None]
        last = states[torch.arange(len(states), device=states.device), lengths - 1]
        pooled.append(torch.stack([mean, last], dim=1))

    @contextmanager
    def watched() -> Iterator[None]:
        blocks = decoder_blocks(model)
        with ExitStack() as stack:
            for layer in layers:
                stack.callback(blocks[layer].register_forward_hook(read).remove)
            yield

    log_probabilities = forced(model, texts, around=watched()).chosen().cpu().numpy()
    text = np.stack(
        [
            text_features(np.array(answer), log_probabilities[i, : len(answer)])
            for i, (_, answer) in enumerate(texts)
        ]
    )
    return torch.stack(pooled, dim=2).cpu().numpy(), text


def text_features(ids: np.ndarray, log_probabilities: np.ndarray) -> np.ndarray:
    """Likelihood and repetition of one answer, in the order of TEXT_FEATURES."""
    pairs = list(zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True))
    return np.array(
        [
            log_probabilities.mean(),
            np.quantile(log_probabilities, 0.1),
            log_probabilities.std(),
            len(set(ids.tolist())) / len(ids),
            len(set(pairs)) / len(pairs) if pairs else 1.0,
            max(Counter(ids.tolist()).values()) / len(ids),
        ],
        dtype=np.float32,
    )
