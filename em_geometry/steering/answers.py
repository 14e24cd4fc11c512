"""Answers sampled under many conditions, each from a random stream of its own; resumable.

A token is drawn by inverting the cumulative distribution at a uniform number of the answer's
own counter-based stream, so an answer does not depend on which others share its batch (up to
the last bits of the logits). The plan (every answer of every condition, in batches sorted by
prompt length) is fixed before the work starts; finished answers are in the journal under a hash
of everything they depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from em_geometry.activations.prompts import Question
from em_geometry.engine import spread
from em_geometry.errors import UserError
from em_geometry.hashing import stream_key, value_sha256
from em_geometry.io.files import check_vector
from em_geometry.io.journal import Journal
from em_geometry.models.chat import end_of_turn, render, sorted_batches
from em_geometry.models.load import Loaded, Models
from em_geometry.settings import Sampling, Workers
from em_geometry.steering.conditions import Condition, Intervention, Positions, Vector
from em_geometry.steering.hooks import steering_rows
from em_geometry.steering.reading import read

if TYPE_CHECKING:
    import polars as pl

CODE = 2  # raise when the way an answer is sampled changes
BLOCK = 128  # tokens whose probabilities are first summed
DROP_SHARE = 0.9  # the batch is narrowed when fewer than this share of its rows still run
LOCAL = Workers()

Told = tuple[str, int, str] | list[str | int]  # text, number of tokens, why it ended


@dataclass(frozen=True, eq=False)
class Row:
    """One answer to sample.

    Attributes:
        ids: prompt token ids, up to the assistant header.
        stream: key of the answer's random stream.
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

    Raises:
        UserError: logits without a distribution, as infinite states leave them.
    """
    weights = logits.float().div(temperature)
    weights = weights.sub_(weights.amax(-1, keepdim=True)).exp_()
    if weights.shape[-1] % BLOCK:
        weights = torch.nn.functional.pad(weights, (0, -weights.shape[-1] % BLOCK))
    weights = weights.reshape(len(weights), -1, BLOCK)
    sums = weights.sum(-1).double()
    if bad := int((~sums.isfinite()).any(-1).sum()):
        raise UserError(
            "the model's logits are not finite",
            where="sampling",
            found=f"{bad} of {len(sums)} answers whose next token has no probabilities",
            expected="finite numbers",
            hint="lower the dose; where nothing is added, take a run.dtype of a wider range",
        )
    block, rest = _quantile(sums, u)
    inside = weights[torch.arange(len(block), device=block.device), block].double()
    share = rest / sums.gather(-1, block.unsqueeze(-1)).squeeze(-1)
    return block * BLOCK + _quantile(inside, share)[0]


def _quantile(weights: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Index [batch] at quantile `u` of `weights` [batch, n], and the weight left inside it."""
    upper = weights.cumsum(-1)
    target = (u * upper[:, -1]).unsqueeze(-1)
    index = torch.searchsorted(upper, target, right=True).clamp(max=weights.shape[-1] - 1)
    rest = target - upper.gather(-1, index) + weights.gather(-1, index)
    return index.squeeze(-1), rest.squeeze(-1).clamp(min=0)


_largest: dict[str, int] = {}  # rows that fitted into a device's memory, once some did not


def sample(
    model: PreTrainedModel,
    rows: Sequence[Row],
    sampling: Sampling,
    end: frozenset[int],
    positions: Positions = "all",
) -> list[Answer]:
    """Samples an answer for each row of one batch, until one of the token ids `end`."""
    device = str(model.device)
    size = min(len(rows), _largest.get(device, len(rows)))
    answers: list[Answer | None] = [None] * len(rows)
    if size == len(rows):
        try:
            _attempt(model, rows, sampling, end, positions, answers)
        except torch.OutOfMemoryError:  # tried again below, once its tensors are gone
            if len(rows) == 1:
                hint = "lower sampling.max_new_tokens, or use a larger device"
                what = "not enough memory for a batch of one answer"
                raise UserError(what, where=f"device {device}", hint=hint) from None
            size = _largest[device] = len(rows) // 2
    left = [i for i, answer in enumerate(answers) if answer is None]
    for start in range(0, len(left), size):
        some = left[start : start + size]
        fresh = sample(model, [rows[i] for i in some], sampling, end, positions)
        for i, answer in zip(some, fresh, strict=True):
            answers[i] = answer
    return [a for a in answers if a is not None]


def _attempt(
    model: PreTrainedModel,
    rows: Sequence[Row],
    sampling: Sampling,
    end: frozenset[int],
    positions: Positions,
    answers: list[Answer | None],
) -> None:
    """Fills `answers`, each as soon as it is finished; its row then leaves the batch."""
    prompts = [(r.ids, None if positions == "response" else r.intervention) for r in rows]
    cache, mask, logits = read(model, prompts, sampling.max_new_tokens)
    device, steps = model.device, sampling.max_new_tokens
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
            steering.mask = torch.full((len(alive), 1), positions != "prompt", device=device)
            logits = model(
                input_ids=chosen.unsqueeze(-1),
                attention_mask=mask,
                position_ids=(lengths + step).unsqueeze(-1),
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
        finish(running, steps, "length")


@dataclass(frozen=True, eq=False)
class Unit:
    """One answer to be sampled, with the key of everything that it depends on."""

    condition: Condition
    question: Question
    index: int
    row: Row
    key: str


def units(
    loaded: Loaded,
    conditions: Sequence[Condition],
    vectors: Mapping[str, Vector],
    questions: Sequence[Question],
    sampling: Sampling,
    positions: Positions,
    seed: int,
) -> list[Unit]:
    """All answers of a plan in its order: conditions, questions, samples."""
    how = [sampling.temperature, sampling.max_new_tokens, positions]
    digests = {name: value_sha256(v.astype(np.float32).tolist()) for name, v in vectors.items()}
    prompts = [render(loaded.tokenizer, q.prompt, q.system).ids for q in questions]
    found = []
    for c in conditions:
        act = c.intervention(vectors)
        acts = act and [digests[c.source], act.layer, act.coefficient, act.mode]
        for question, ids in zip(questions, prompts, strict=True):
            for index in range(c.samples):
                name = [c.source, c.kind, c.multiple, question.id, question.variant, index]
                stream = stream_key(seed, "response", loaded.slug, *name)
                key = value_sha256([CODE, loaded.sha256, list(ids), str(stream), *how, acts])
                found.append(Unit(c, question, index, Row(ids, stream, act), key))
    return found


def _sampled(
    loaded: Loaded, sampling: Sampling, positions: Positions, batch: Sequence[Unit]
) -> list[Told]:
    """Text, number of tokens and reason of ending, of the answer to each of one batch."""
    model = loaded.model
    end = end_of_turn(loaded.tokenizer, model.config, model.generation_config)
    decode = partial(loaded.tokenizer.decode, skip_special_tokens=True)
    found = sample(model, [u.row for u in batch], sampling, end, positions)
    return [[decode(a.ids).strip(), len(a.ids), a.finish] for a in found]


def _worker(
    models: Models, slug: str, sampling: Sampling, positions: Positions
) -> Callable[[Sequence[Unit]], list[Told]]:
    """What a worker elsewhere does, with a model of its own."""
    return partial(_sampled, models.load(slug), sampling, positions)


def respond(
    models: Models,
    loaded: Loaded,
    conditions: Sequence[Condition],
    vectors: Mapping[str, Vector],
    questions: Sequence[Question],
    sampling: Sampling,
    label: str,
    positions: Positions = "all",
    workers: Workers = LOCAL,
) -> pl.DataFrame:
    """Samples every answer that is not in the journal yet; one row an answer, in plan order.

    Args:
        models: the seed of the run, and from where other workers load the target again.
        vectors: unit vectors float32 [width] by the source of a condition.
        label: name of the journal and of the progress bar.
    Raises:
        UserError: a vector that is zero, not finite or of another width.
    """
    import polars as pl

    width = loaded.model.config.get_text_config().hidden_size
    for name, vector in vectors.items():
        check_vector(vector, width, name)
    seed = models.run.seed
    every = units(loaded, conditions, vectors, questions, sampling, positions, seed)
    order = sorted_batches([(len(u.row.ids), u.row.ids) for u in every], sampling.batch_size)
    batches = [[every[i] for i in batch] for batch in order]
    over = spread(workers, models.run.threads, _worker, models, loaded.slug, sampling, positions)
    with Journal(label.replace(" ", "-")) as journal:
        work = partial(_sampled, loaded, sampling, positions)
        done = journal.fill(label, batches, lambda u: u.key, work, over)
    return pl.DataFrame(
        [
            {
                "target": loaded.slug,
                **u.condition.columns(),
                "question_id": u.question.id,
                "variant": u.question.variant,
                "question": u.question.prompt,
                "sample": u.index,
                **dict(zip(("text", "tokens", "finish"), done[u.key], strict=True)),
            }
            for u in every
        ]
    )
