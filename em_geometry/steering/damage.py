"""Damage of steering: KL(unsteered || steered) on benign text, nats per token.

docs/method.md, steering. Teacher-forced on the target's own unsteered answers to benign prompts;
the mean over answer tokens of the divergence between next-token distributions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from em_geometry.activations.prompts import ActivationPrompt
from em_geometry.hashing import stream_key
from em_geometry.models.chat import end_of_turn, render
from em_geometry.models.load import Loaded, Models
from em_geometry.progress import Progress
from em_geometry.settings.sections import Sampling
from em_geometry.steering.conditions import Condition, Vector
from em_geometry.steering.forced import answer_log_probabilities
from em_geometry.steering.generate import Positions, Row, sample

if TYPE_CHECKING:
    import polars as pl
    import torch


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
