"""Teacher forcing: a model reads given answers, and what several prompts share only once.

Damage of steering (docs/method.md, steering) is KL(unsteered || steered) in nats per token: the
divergence of next-token distributions over a target's own unsteered answers to benign prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from em_geometry.activations.capture import padded
from em_geometry.activations.prompts import ActivationPrompt
from em_geometry.hashing import stream_key
from em_geometry.models.chat import end_of_turn, render
from em_geometry.models.load import Loaded, Models
from em_geometry.progress import Progress
from em_geometry.settings import Sampling
from em_geometry.steering.conditions import Condition, Vector
from em_geometry.steering.generate import Positions, Row, sample
from em_geometry.steering.hooks import Intervention, steering_rows
from em_geometry.steering.prefill import read

if TYPE_CHECKING:
    import polars as pl
    import torch
    from transformers import PreTrainedModel

TOKENS = 1024  # of answers in one pass: their logits over the vocabulary are held at once


@dataclass(frozen=True, eq=False)
class Forced:
    """What a model makes of a batch of answers, padded at the right.

    Attributes:
        ids, mask: of the answers [answers, tokens].
        first: logits of each first token [answers, vocabulary].
        rest: logits behind each token [answers, tokens, vocabulary].
    """

    ids: torch.Tensor
    mask: torch.Tensor
    first: torch.Tensor
    rest: torch.Tensor

    def chosen(self) -> torch.Tensor:
        """Log-probabilities of the answers' own tokens, float32 [answers, tokens], in nats."""
        import torch
        from torch.nn.functional import cross_entropy

        first = cross_entropy(self.first.float(), self.ids[:, 0], reduction="none")
        following = torch.nn.functional.pad(self.ids[:, 1:], (0, 1))  # the last logits are unused
        rest = cross_entropy(
            self.rest.float().flatten(0, 1), following.flatten(), reduction="none"
        ).view_as(following)
        return -torch.cat([first[:, None], rest[:, :-1]], dim=1)

    def tables(self) -> list[torch.Tensor]:
        """Log-probabilities float32 [tokens of the answer, vocabulary] of each answer."""
        import torch

        return [
            torch.cat([self.first[i, None], self.rest[i, : length - 1]]).float().log_softmax(-1)
            for i, length in enumerate(self.mask.sum(-1).tolist())
        ]


def forced(
    model: PreTrainedModel,
    texts: Sequence[tuple[Sequence[int], Sequence[int]]],
    interventions: Sequence[Intervention | None] | None = None,
    positions: Positions = "all",
    around: AbstractContextManager[Any] | None = None,
) -> Forced:
    """Reads a batch of (prompt, answer) token ids, one token or more each.

    Args:
        interventions: one for each text; None steers nothing.
        positions: tokens that interventions act on.
        around: entered for the pass over the answers only, such as hooks that look at it.
    """
    import torch

    acts = list(interventions) if interventions is not None else [None] * len(texts)
    prompts = [
        (tuple(prompt), None if positions == "response" else how)
        for (prompt, _), how in zip(texts, acts, strict=True)
    ]
    ids, mask = padded([answer for _, answer in texts], "right", model.device)
    cache, before, first = read(model, prompts, ids.shape[1])
    after = acts if positions != "prompt" else [None] * len(texts)
    with torch.no_grad(), steering_rows(model, after) as steering, around or nullcontext():
        steering.mask = mask.bool()
        rest = model(
            input_ids=ids,
            attention_mask=torch.cat([before, mask], dim=-1),
            position_ids=before.sum(-1, keepdim=True) + torch.arange(ids.shape[1]).to(ids.device),
            past_key_values=cache,
            use_cache=True,
        ).logits
    return Forced(ids, mask, first, rest)


def answer_log_probabilities(
    model: PreTrainedModel,
    texts: Sequence[tuple[tuple[int, ...], int]],
    interventions: Sequence[Intervention | None],
    positions: Positions,
) -> Iterator[list[torch.Tensor]]:
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


def damage(
    models: Models,
    loaded: Loaded,
    conditions: Sequence[Condition],
    vectors: Mapping[str, Vector],
    prompts: Sequence[ActivationPrompt],
    sampling: Sampling,
    positions: Positions = "all",
) -> pl.DataFrame:
    """KL of every steered condition, on the target's answers to benign prompts; one row each."""
    import polars as pl

    system, seed = models.system_prompt, models.run.seed
    asked = [render(loaded.tokenizer, p.prompt, system).ids for p in prompts]
    rows = [
        Row(ids, stream_key(seed, "damage", loaded.slug, p.id))
        for ids, p in zip(asked, prompts, strict=True)
    ]
    end = end_of_turn(loaded.tokenizer, loaded.model.config)
    answers = sample(loaded.model, rows, sampling, end) if rows else []
    texts = [((*ids, *a.ids), len(ids)) for ids, a in zip(asked, answers, strict=True) if a.ids]
    steered = [c for c in conditions if c.kind != "unsteered"] if texts else []
    acts = [None, *(c.intervention(vectors) for c in steered)]
    tables = answer_log_probabilities(loaded.model, texts, acts, positions)
    reference = next(tables, [])
    tokens = sum(map(len, reference))
    found = []
    with Progress(f"damage {loaded.slug}", len(steered), unit="conditions") as progress:
        for condition, under in zip(steered, tables, strict=True):
            kl = kl_per_token(reference, under)
            found.append({"target": loaded.slug, **condition.columns(), "kl": kl, "tokens": tokens})
            progress.advance()
    kinds: dict[str, type[pl.DataType]] = dict.fromkeys(
        ["target", *Condition().columns()], pl.Float64
    )
    kinds |= {"target": pl.String, "source": pl.String, "kind": pl.String, "layer": pl.Int64}
    return pl.DataFrame(found, schema={**kinds, "kl": pl.Float64, "tokens": pl.Int64})


def spread_prompts(prompts: Sequence[ActivationPrompt], count: int) -> list[ActivationPrompt]:
    """At most `count` neutral prompts, spread over the topics."""
    neutral = [p for p in prompts if p.kind == "neutral"]
    return neutral[:: max(1, len(neutral) // max(1, count))][:count]


def kl_per_token(reference: Sequence[torch.Tensor], steered: Sequence[torch.Tensor]) -> float:
    """Mean KL(reference || steered) over all answer tokens, in nats."""
    total, count = 0.0, 0
    for p, q in zip(reference, steered, strict=True):
        total += float((p.exp() * (p - q)).sum())
        count += len(p)
    return max(0.0, total / count)
