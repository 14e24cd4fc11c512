"""Answers of one target model under a list of conditions, resumable.

The plan (every answer of every condition, in batches sorted by prompt length) is fixed before
the work starts; finished answers are in the journal under a hash of everything they depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from em_geometry.activations.questions import Question
from em_geometry.engine import spread
from em_geometry.hashing import stream_key, value_sha256
from em_geometry.io.journal import Journal
from em_geometry.models.chat import end_of_turn, render
from em_geometry.models.load import Loaded
from em_geometry.project.inputs import models
from em_geometry.settings.params import Params
from em_geometry.steering.generate import Row, sample
from em_geometry.steering.hooks import Intervention, check_vector

if TYPE_CHECKING:
    import polars as pl

CODE = 2  # raise when the way an answer is sampled changes
UNSTEERED = "none"  # the source of conditions without a vector
Kind = Literal["unsteered", "vector", "orthogonalised", "random", "ablation"]


@dataclass(frozen=True)
class Condition:
    """One way of steering, answered `samples` times a question.

    Attributes:
        source: slug of the vector, a control's name, or "none".
        kind: what the vector is to its source.
        multiple: factor of the source's chosen coefficient (signed; 0 for unsteered).
        relative_dose: coefficient over the mean residual norm at the layer (0 for ablation).
        coefficient: raw coefficient of the unit vector.
        layer: block it acts on (-1 for unsteered).
    """

    source: str = UNSTEERED
    kind: Kind = "unsteered"
    multiple: float = 0.0
    relative_dose: float = 0.0
    coefficient: float = 0.0
    layer: int = -1
    samples: int = 1

    @property
    def vector_name(self) -> str:
        return f"{self.kind}:{self.source}"


@dataclass(frozen=True, eq=False)
class _Unit:
    condition: Condition
    question: Question
    index: int
    row: Row
    key: str


def intervention(condition: Condition, vectors: Mapping[str, np.ndarray]) -> Intervention | None:
    """What a condition does to a row; None when unsteered."""
    if condition.kind == "unsteered":
        return None
    return Intervention(
        vectors[condition.vector_name],
        condition.layer,
        condition.coefficient,
        "ablate" if condition.kind == "ablation" else "add",
    )


def _units(
    params: Params,
    loaded: Loaded,
    conditions: Sequence[Condition],
    vectors: Mapping[str, np.ndarray],
    questions: Sequence[Question],
) -> list[_Unit]:
    how = [params.sampling.temperature, params.sampling.max_new_tokens, params.steering.positions]
    digests = {name: value_sha256(v.astype(np.float32).tolist()) for name, v in vectors.items()}
    prompts = [render(loaded.tokenizer, q.prompt, q.system).ids for q in questions]
    units = []
    for condition in conditions:
        steering = intervention(condition, vectors)
        acts = steering and [
            digests[condition.vector_name],
            steering.layer,
            steering.coefficient,
            steering.mode,
        ]
        name = [condition.source, condition.kind, condition.multiple]
        for question, ids in zip(questions, prompts, strict=True):
            for index in range(condition.samples):
                who = [loaded.slug, *name, question.id, question.variant, index]
                stream = stream_key(params.run.seed, "response", *who)
                key = value_sha256([CODE, loaded.sha256, list(ids), str(stream), *how, acts])
                row = Row(ids, stream, steering)
                units.append(_Unit(condition, question, index, row, key))
    return units


def _sampled(params: Params, loaded: Loaded, batch: Sequence[_Unit]) -> list[Any]:
    """Text, number of tokens and reason of ending, of each answer of a batch."""
    end = end_of_turn(loaded.tokenizer, loaded.model.config)
    rows = [u.row for u in batch]
    answers = sample(loaded.model, rows, params.sampling, end, params.steering.positions)
    return [
        [loaded.tokenizer.decode(a.ids, skip_special_tokens=True).strip(), len(a.ids), a.finish]
        for a in answers
    ]


def _worker(params: Params, slug: str) -> Callable[[Sequence[_Unit]], list[Any]]:
    """What a Ray worker does, with a model of its own."""
    return partial(_sampled, params, models(params).load(slug))


def respond(
    params: Params,
    loaded: Loaded,
    conditions: Sequence[Condition],
    vectors: Mapping[str, np.ndarray],
    questions: Sequence[Question],
    label: str,
) -> pl.DataFrame:
    """Samples every answer that is not in the journal yet; one row an answer, in plan order.

    Args:
        loaded: the target.
        conditions: what is done to it.
        vectors: unit vectors float32 [width] by `Condition.vector_name`.
        questions: what is asked.
        label: name of the journal and of the progress bar.
    Raises:
        UserError: a vector that is zero, not finite or of another width.
    """
    import polars as pl

    width = loaded.model.config.get_text_config().hidden_size
    for name, vector in vectors.items():
        check_vector(vector, width, name)
    units = _units(params, loaded, conditions, vectors, questions)
    order = sorted(range(len(units)), key=lambda i: (len(units[i].row.ids), units[i].row.ids, i))
    size = params.sampling.batch_size
    batches = [[units[i] for i in order[s : s + size]] for s in range(0, len(order), size)]
    over = spread(params.workers, params.run.threads, _worker, params, loaded.slug)
    with Journal(label.replace(" ", "-")) as journal:
        work = partial(_sampled, params, loaded)
        done = journal.fill(label, batches, lambda u: u.key, work, over)
    return pl.DataFrame(
        [
            {
                "target": loaded.slug,
                "source": u.condition.source,
                "kind": u.condition.kind,
                "multiple": u.condition.multiple,
                "relative_dose": u.condition.relative_dose,
                "coefficient": u.condition.coefficient,
                "layer": u.condition.layer,
                "question_id": u.question.id,
                "variant": u.question.variant,
                "question": u.question.prompt,
                "sample": u.index,
                "text": done[u.key][0],
                "tokens": done[u.key][1],
                "finish": done[u.key][2],
            }
            for u in units
        ]
    )
