"""Answers of one target model under a list of conditions, resumable.

The plan (every answer of every condition, in batches sorted by prompt length) is fixed before
the work starts; finished answers are in the journal under a hash of everything they depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from em_geometry.activations.capture import sorted_batches
from em_geometry.activations.questions import Question
from em_geometry.engine import spread
from em_geometry.hashing import stream_key, value_sha256
from em_geometry.io.journal import Journal
from em_geometry.models.chat import end_of_turn, render
from em_geometry.models.load import Loaded, Models
from em_geometry.settings import Sampling, Workers
from em_geometry.steering.conditions import Condition, Vector
from em_geometry.steering.generate import Positions, Row, sample
from em_geometry.steering.hooks import check_vector

if TYPE_CHECKING:
    import polars as pl

CODE = 2  # raise when the way an answer is sampled changes
LOCAL = Workers()

Told = tuple[str, int, str] | list[str | int]  # text, number of tokens, why it ended


@dataclass(frozen=True, eq=False)
class Unit:
    """One answer to be sampled, with the key of everything that it depends on."""

    condition: Condition
    question: Question
    index: int
    row: Row
    key: str


def answers_of(
    loaded: Loaded, rows: Sequence[Row], sampling: Sampling, positions: Positions
) -> list[Told]:
    """Text, number of tokens and reason of ending, of an answer to each row of one batch."""
    end = end_of_turn(loaded.tokenizer, loaded.model.config)
    decode = partial(loaded.tokenizer.decode, skip_special_tokens=True)
    found = sample(loaded.model, rows, sampling, end, positions)
    return [[decode(a.ids).strip(), len(a.ids), a.finish] for a in found]


def _sampled(
    loaded: Loaded, sampling: Sampling, positions: Positions, batch: Sequence[Unit]
) -> list[Told]:
    return answers_of(loaded, [u.row for u in batch], sampling, positions)


def _worker(
    models: Models, slug: str, sampling: Sampling, positions: Positions
) -> Callable[[Sequence[Unit]], list[Told]]:
    """What a worker elsewhere does, with a model of its own."""
    return partial(_sampled, models.load(slug), sampling, positions)


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
        acts = act and [digests[c.vector_name], act.layer, act.coefficient, act.mode]
        for question, ids in zip(questions, prompts, strict=True):
            for index in range(c.samples):
                name = [c.source, c.kind, c.multiple, question.id, question.variant, index]
                stream = stream_key(seed, "response", loaded.slug, *name)
                key = value_sha256([CODE, loaded.sha256, list(ids), str(stream), *how, acts])
                found.append(Unit(c, question, index, Row(ids, stream, act), key))
    return found


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
        loaded: the target.
        conditions: what is done to it.
        vectors: unit vectors float32 [width] by `Condition.vector_name`.
        questions: what is asked.
        label: name of the journal and of the progress bar.
        positions: tokens that the vectors act on.
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
