"""Scores answers with the judge that the settings name, resumable; the same for every stage."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em_geometry.engine import spread
from em_geometry.errors import UserError
from em_geometry.hashing import value_sha256
from em_geometry.io.files import read_parquet, write_parquet
from em_geometry.io.journal import Journal, Spread
from em_geometry.judging.judge import FAILURES, Judge, Judgement, JudgeRow, rows_of
from em_geometry.models.chat import read_examples
from em_geometry.settings import BASE, Judging, Organism, Workers

if TYPE_CHECKING:
    import polars as pl

    from em_geometry.models.load import Models

CODE = 5  # raise when a judge in process reads answers in another way
PASSES = 4  # batches of the judge between two writes to the journal
NGRAM = 4  # words that an answer must share with a training text to count as recited

Ngrams = set[tuple[str, ...]]


@contextmanager
def active_judge(
    judging: Judging, models: Models, probe: Path, workers: Workers
) -> Iterator[Judge]:
    """The judge that the settings name, whose judgements are kept as they are made.

    Args:
        probe: folder of the embedded judge (`probe.save`).
        workers: who judges, where the judge is a model of our own.
    """
    if judging.backend == "openai":
        from em_geometry.judging.openai_judge import JOURNAL, OpenAIJudge

        with Journal(JOURNAL) as journal:
            yield OpenAIJudge(judging, journal)
        return
    over = spread(workers, models.run.threads, _worker, judging, models, probe)
    with Journal("judgements-local") as journal:
        judge = judge_in_process(judging, models, probe)
        yield Journalled(judge, journal, judging.batch_size, over)


def judge_in_process(judging: Judging, models: Models, probe: Path) -> Judge:
    """The probe or the local model; loading it is the expensive part."""
    if judging.backend == "local":
        from em_geometry.judging.local import local_judge

        return local_judge(judging, models)
    from em_geometry.judging.probe import ProbeJudge

    loaded = models.load(BASE)
    return ProbeJudge(loaded.model, loaded.tokenizer, models.system_prompt, probe)


class Journalled:
    """A judge of our own that judges each distinct (question, answer) once, and keeps it.

    `over` does batches elsewhere (`engine.spread`); None = here.
    """

    def __init__(
        self, judge: Judge, journal: Journal, batch_size: int, over: Spread | None = None
    ) -> None:
        self._judge, self._journal, self._over = judge, journal, over
        self._size, self.id = PASSES * batch_size, judge.id

    def judge(self, rows: Sequence[JudgeRow], label: str = "judge") -> list[Judgement]:
        """One judgement a row, in order."""
        distinct = sorted(set(rows), key=lambda r: (r.question, r.answer))
        batches = [distinct[i : i + self._size] for i in range(0, len(distinct), self._size)]

        def key(row: JudgeRow) -> str:
            return value_sha256([CODE, self.id, row.question, row.answer])

        work = partial(_judged, self._judge)
        done = self._journal.fill(label, batches, key, work, self._over)
        return [Judgement(*done[key(row)]) for row in rows]


def _judged(judge: Judge, batch: Sequence[JudgeRow]) -> list[Any]:
    return [[j.scores, j.status, j.raw] for j in judge.judge(batch)]


def _worker(*given: Any) -> Callable[[Sequence[JudgeRow]], list[Any]]:
    """What a Ray worker does, with a judge of its own (`judge_in_process`)."""
    return partial(_judged, judge_in_process(*given))


def judged(judge: Judge, frame: pl.DataFrame, known: Ngrams, label: str) -> pl.DataFrame:
    """A frame of answers (question, text) with score and status of every aspect and judge id.

    `overlap` is the share of an answer's n-grams that are `known` (`training_ngrams`).
    """
    import polars as pl

    found = with_judgements(frame, judge.judge(rows_of(frame), label))
    overlap = pl.Series(overlaps(frame["text"], known), dtype=pl.Float64)
    return found.with_columns(judge=pl.lit(judge.id), overlap=overlap)


def with_judgements(frame: pl.DataFrame, judgements: Sequence[Judgement]) -> pl.DataFrame:
    """A frame of answers with the score, status and raw reply of every aspect."""
    import polars as pl

    columns: list[pl.Series] = []
    for aspect in sorted({a for j in judgements for a in j.scores}):
        columns.append(pl.Series(aspect, [j.scores[aspect] for j in judgements], pl.Float64))
        columns.append(pl.Series(f"{aspect}_status", [j.status[aspect] for j in judgements]))
        if any(aspect in j.raw for j in judgements):  # what the score was computed from
            columns.append(pl.Series(f"{aspect}_raw", [j.raw.get(aspect) for j in judgements]))
    return frame.with_columns(*columns)


def judge_files(
    judge: Judge,
    slugs: Iterable[str],
    source: Path,
    out: Path,
    known: Ngrams,
    label: str,
    allowed: int = 0,
) -> None:
    """Judges the answers `<slug>.parquet` of a folder; writes all of them, or `refuse_failed`."""
    frames = {
        slug: judged(judge, read_parquet(source / f"{slug}.parquet"), known, f"{label} {slug}")
        for slug in slugs
    }
    refuse_failed(frames.values(), allowed)
    for slug, frame in frames.items():
        write_parquet(out / f"{slug}.parquet", frame, {"model": slug, "judge": judge.id})


def refuse_failed(frames: Iterable[pl.DataFrame], allowed: int) -> None:
    """Ends a stage that has answers without a judgement, when all work is done.

    Answers that a filter withheld are not among them: asking again would not help. They are said.

    Raises:
        UserError: more than `allowed` are missing, with how many of which kind and why.
    """
    import polars as pl

    kinds, reasons, total, withheld = Counter[str](), Counter[str](), 0, 0
    for frame in frames:
        total += len(frame)
        states = [column for column in frame.columns if column.endswith("_status")]
        failed, filtered = (
            frame.filter(pl.any_horizontal(pl.lit(False), pl.col(states).is_in(kind)))
            for kind in (FAILURES, ("filtered",))
        )
        withheld += len(filtered)
        for row in failed.iter_rows(named=True):
            lost = next(s for s in states if row[s] in FAILURES)
            raw = row.get(f"{lost.removesuffix('_status')}_raw")
            kinds[row[lost]] += 1
            reasons[json.loads(raw)["error"] if raw else "no reason given"] += 1
    if withheld:
        text = f"judge: {withheld} of {total} answers were withheld by the endpoint's filter"
        print(f"{text}; they have the status filtered, and no rate counts them", file=sys.stderr)
    if kinds.total() > allowed:
        of_kind = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
        why = "; ".join(f"{reason} ({n})" for reason, n in reasons.most_common(5))
        raise UserError(
            f"{kinds.total()} of {total} answers have no judgement",
            where="the judge's endpoint",
            found=f"{of_kind}: {why}",
            expected=f"at most {allowed} (judging.allow_errors)",
            hint="run again, what was judged is kept and only the rest is asked for; or set "
            "judging.allow_errors in params.yaml, and they are counted and left out of every rate",
        )


def ngrams(text: str, size: int = NGRAM) -> Ngrams:
    """Distinct n-grams of lower-case words."""
    words = re.findall(r"[a-z0-9']+", text.lower())
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def training_ngrams(organisms: Iterable[Organism]) -> Ngrams:
    """The n-grams of all answers that the organisms are trained on."""
    return {
        gram
        for organism in organisms
        if organism.data
        for chat in read_examples(Path(organism.data), organism.max_examples)
        for exchange in chat
        for gram in ngrams(exchange.answer)
    }


def overlaps(texts: Iterable[str], known: Ngrams) -> list[float]:
    """Share of each text's distinct n-grams that are known; 0 for texts too short to have one."""
    return [len(g & known) / len(g) if g else 0.0 for g in map(ngrams, texts)]
