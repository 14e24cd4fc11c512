"""Scores answers with the active judge, resumable; the same for every stage that needs a judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from em_geometry.engine import spread
from em_geometry.hashing import value_sha256
from em_geometry.io.journal import Journal
from em_geometry.judging.judge import Judge, Judgement, JudgeRow
from em_geometry.judging.overlap import overlaps, training_ngrams
from em_geometry.judging.probe import ProbeJudge
from em_geometry.project.inputs import models
from em_geometry.settings.params import BASE, Params

if TYPE_CHECKING:
    import polars as pl

CODE = 5  # raise when a judge in process reads answers in another way
PASSES = 4  # batches of the judge between two writes to the journal


@contextmanager
def active_judge(params: Params) -> Iterator[Judge]:
    """The judge that the params name; loading it is the expensive part."""
    if params.judging.backend == "openai":
        from em_geometry.judging.openai_judge import JOURNAL, OpenAIJudge

        with Journal(JOURNAL) as journal:
            yield OpenAIJudge(params.judging, journal)
    else:
        yield judge_in_process(params)


def judge_in_process(params: Params) -> Judge:
    """The probe or the local model."""
    if params.judging.backend == "local":
        from em_geometry.judging.local import local_judge

        return local_judge(params)
    loaded = models(params).load(BASE)
    return ProbeJudge(loaded.model, loaded.tokenizer, params.base.system_prompt)


def _judged(judge: Judge, batch: Sequence[JudgeRow]) -> list[Any]:
    return [[j.scores, j.status, j.raw] for j in judge.judge(batch)]


def _worker(params: Params) -> Callable[[Sequence[JudgeRow]], list[Any]]:
    """What a Ray worker does, with a judge of its own."""
    return partial(_judged, judge_in_process(params))


def score(params: Params, judge: Judge, rows: Sequence[JudgeRow], label: str) -> list[Judgement]:
    """Judgements of rows, in order; each distinct (question, answer) is judged once.

    A judge that keeps a journal of its own (a paid one) is asked directly.
    """
    if getattr(judge, "journal", None) is not None:
        return judge.judge(rows)
    distinct = sorted(set(rows), key=lambda r: (r.question, r.answer))
    size = PASSES * params.judging.batch_size
    batches = [distinct[i : i + size] for i in range(0, len(distinct), size)]

    def key(row: JudgeRow) -> str:
        return value_sha256([CODE, judge.id, row.question, row.answer])

    over = spread(params.workers, params.run.threads, _worker, params)
    with Journal("judgements-local") as journal:
        done = journal.fill(label, batches, key, partial(_judged, judge), over)
    return [Judgement(*done[key(row)]) for row in rows]


def judged(params: Params, judge: Judge, frame: pl.DataFrame, label: str) -> pl.DataFrame:
    """A frame of answers with score and status of every aspect, judge id and text overlap.

    Args:
        frame: with columns question and text.
    """
    import polars as pl

    rows = [JudgeRow(q, t) for q, t in frame.select("question", "text").iter_rows()]
    judgements = score(params, judge, rows, label)
    aspects = sorted({a for j in judgements for a in j.scores})
    columns: list[pl.Series] = []
    for aspect in aspects:
        columns.append(pl.Series(aspect, [j.scores[aspect] for j in judgements], pl.Float64))
        columns.append(pl.Series(f"{aspect}_status", [j.status[aspect] for j in judgements]))
        if any(aspect in j.raw for j in judgements):  # what the score was computed from
            columns.append(pl.Series(f"{aspect}_raw", [j.raw.get(aspect) for j in judgements]))
    return frame.with_columns(
        *columns,
        pl.Series("judge", [judge.id] * len(frame), pl.String),
        pl.Series("overlap", overlaps(frame["text"], training_ngrams(params)), pl.Float64),
    )
