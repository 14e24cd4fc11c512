"""What the embedded judge sees of an answer: frozen base-model activations and likelihoods.

Answers to one question share the pass over its prompt: its KV cache is computed once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.activations.blocks import decoder_blocks, hidden
from stages.activations.capture import length_sorted_batches, padded
from stages.common.progress import Progress
from stages.organisms.chat import answer_ids, check_length, render

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
    by_question: dict[str, list[int]] = {}
    for i, (question, _) in enumerate(rows):
        by_question.setdefault(question, []).append(i)
    with Progress(label, len(rows), unit="answers") if label else nullcontext() as progress:
        for question, members in by_question.items():
            prompt = render(tokenizer, question, system).ids
            answers = [
                answer_ids(tokenizer, rows[i][1]) or (tokenizer.eos_token_id,) for i in members
            ]
            check_length(tokenizer, len(prompt) + max(map(len, answers)), question)
            for batch in length_sorted_batches([len(a) for a in answers], BATCH):
                where = [members[j] for j in batch]
                activations[where], text[where] = _batch(
                    model, prompt, [answers[j] for j in batch], layers
                )
                if progress:
                    progress.advance(len(batch))
    return Features(activations, text)


def _batch(
    model: Any, prompt: tuple[int, ...], answers: Sequence[tuple[int, ...]], layers: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    import torch

    ids, mask = padded(answers, "right", model.device)
    lengths = mask.sum(-1)
    pooled: list[Any] = []

    def read(module: Any, args: Any, output: Any) -> None:
        states = hidden(output).float().to(mask.device)
        mean = torch.einsum("bt,btd->bd", mask.float(), states) / lengths[:, None]
        last = states[torch.arange(len(states), device=states.device), lengths - 1]
        pooled.append(torch.stack([mean, last], dim=1))

    with torch.no_grad():
        prompt_ids = torch.tensor([prompt], device=model.device)
        start = model(input_ids=prompt_ids, use_cache=True, logits_to_keep=1)
        cache = start.past_key_values
        cache.batch_select_indices(torch.zeros(len(answers), dtype=torch.long, device=model.device))
        with ExitStack() as stack:
            blocks = decoder_blocks(model)
            for layer in layers:
                stack.callback(blocks[layer].register_forward_hook(read).remove)
            logits = model(
                input_ids=ids,
                attention_mask=torch.cat([mask.new_ones(len(answers), len(prompt)), mask], dim=-1),
                position_ids=torch.arange(len(prompt), len(prompt) + ids.shape[1])[None].to(
                    model.device
                ),
                past_key_values=cache,
                use_cache=True,
            ).logits
        first = start.logits[:, -1:].expand(len(answers), -1, -1)
        logits = torch.cat([first, logits[:, :-1]], dim=1).float()
        chosen = logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)
    log_probabilities = chosen.cpu().numpy()
    text = np.stack(
        [
            text_features(np.array(answer), log_probabilities[i, : len(answer)])
            for i, answer in enumerate(answers)
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
