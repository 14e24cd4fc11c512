"""The LLM judge through OpenAI's Batch API: half the price, an answer within a day.

    python -m em_geometry.judging.batch run data/responses/finance.parquet

writes the requests, submits them, waits and journals the replies, after which the judging stages
find everything in the journal. It can be stopped at any moment: a batch carries a tag, so the
next run finds it at the endpoint again and submits nothing twice. `write` and `read` do the two
ends of it with files alone, for an upload by hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import typer

from em_geometry.errors import UserError
from em_geometry.hashing import file_sha256, value_sha256
from em_geometry.io.files import missing, read_parquet
from em_geometry.io.journal import Journal, journal_folder
from em_geometry.judging.batch_files import (
    PRICE,
    URL,
    keep,
    read_results,
    request_lines,
    write_files,
)
from em_geometry.judging.client import Client, NoReplyError, endpoint_name, run_async
from em_geometry.judging.client_chat import Reply, output_tokens
from em_geometry.judging.judge import Judgement, JudgeRow
from em_geometry.judging.limits import estimate_tokens
from em_geometry.judging.openai_judge import JOURNAL, OpenAIJudge, Unit
from em_geometry.progress import Progress
from em_geometry.project.command import PARAMS, ParamsFile, command
from em_geometry.settings.params import load_params

POLL_S = 60.0
CALL_TIMEOUT_S = 60.0
FILE_TIMEOUT_S = 900.0
ENDED = {"completed", "expired", "cancelled", "failed"}
TAG, FILE = "em_geometry_judge", "em_geometry_file"  # keys of a batch's metadata


def judge_batch(
    judge: OpenAIJudge, rows: Sequence[JudgeRow], folder: Path, poll_s: float = POLL_S
) -> list[Judgement]:
    """As `OpenAIJudge.judge`, through the Batch API.

    Args:
        folder: where the request files are written.
        poll_s: seconds between two looks at the batches.
    Raises:
        UserError: as `judge`, or the endpoint has no Batch API or rejects a file.
    """
    failures = run_async(_Batches(judge, poll_s).run(rows, folder))
    return judge.collect(rows, failures)


class _Batches:
    """The batches of one judge at its endpoint."""

    def __init__(self, judge: OpenAIJudge, poll_s: float) -> None:
        self.judge, self.poll_s = judge, poll_s

    async def run(self, rows: Sequence[JudgeRow], folder: Path) -> dict[str, str]:
        """Finishes what earlier runs submitted, submits the rest, finishes that too."""
        async with Client(self.judge.params) as self.client:
            self.mode = await self.judge.probe(self.client)
            self.tag = value_sha256([self.judge.name, self.mode])
            failures = await self._finish(await self._open())
            units, _ = self.judge.scan(rows, self.mode)
            if units:
                self._check_budget(units)
                lines = request_lines(self.judge, units, self.mode)
                batches = [await self._submit(path) for path in write_files(folder, lines)]
                failures = await self._finish(batches)
        return failures

    async def _open(self) -> list[Any]:
        """Batches with our tag whose results are not in the journal."""
        tagged = await self._call(self._tagged)
        markers = [_marker(batch) for batch in tagged]
        collected = self.judge.journal.get(markers)
        return [b for b, marker in zip(tagged, markers, strict=True) if marker not in collected]

    async def _tagged(self) -> list[Any]:
        batches = self.client.api.batches.list(limit=100)
        return [b async for b in batches if (b.metadata or {}).get(TAG) == self.tag]

    def _check_budget(self, units: Sequence[Unit]) -> None:
        tokens_in = sum(estimate_tokens(self.judge.prompt(unit)) for unit in units)
        tokens_out = len(units) * output_tokens(self.mode)
        cost = PRICE * self.judge.budget.cost(tokens_in, tokens_out)
        if not self.judge.budget.reserve(cost):
            raise self.judge.budget.exhausted()
        self.judge.budget.settle(cost, 0.0)

    async def _submit(self, path: Path) -> Any:
        """Uploads a file and makes a batch of it.

        A failed attempt may have made the batch all the same, so each attempt looks first.
        """
        api, name = self.client.api, file_sha256(path)

        async def upload() -> str:
            return (await api.files.create(file=path, purpose="batch")).id

        uploaded = await self._call(upload, FILE_TIMEOUT_S)

        async def create() -> Any:
            for batch in await self._tagged():
                if (batch.metadata or {}).get(FILE) == name and batch.status not in ENDED:
                    return batch
            return await api.batches.create(
                input_file_id=uploaded,
                endpoint=URL,
                completion_window="24h",
                metadata={TAG: self.tag, FILE: name},
            )

        return await self._call(create)

    async def _finish(self, batches: Sequence[Any]) -> dict[str, str]:
        """Waits for batches and journals each as it ends; returns reasons for missing replies."""
        failures: dict[str, str] = {}
        waiting = list(batches)
        if not waiting:
            return failures
        with Progress("judge, batches", len(waiting), unit="batches") as progress:
            while True:
                for batch in [b for b in waiting if b.status in ENDED]:
                    failures |= await self._collect(batch)
                    waiting.remove(batch)
                    progress.advance()
                if not waiting:
                    return failures
                await asyncio.sleep(self.poll_s)
                retrieve = self.client.api.batches.retrieve
                waiting = [await self._call(partial(retrieve, b.id)) for b in waiting]

    async def _collect(self, batch: Any) -> dict[str, str]:
        if batch.status == "failed":
            self.judge.journal.put({_marker(batch): True})
            errors = (batch.errors and batch.errors.data) or []
            raise UserError(
                "the endpoint rejected a batch",
                where=f"{endpoint_name(self.client.url)}, batch {batch.id}",
                found=errors[0].message if errors else "no reason given",
            )
        replies: dict[str, Reply] = {}
        failures: dict[str, str] = {}
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            content = await self._call(partial(self._content, file), FILE_TIMEOUT_S)
            more, reasons = read_results(content, self.mode, f"batch {batch.id}, file {file}")
            replies |= more
            failures |= reasons
        keep(self.judge, replies, _marker(batch))
        return failures

    async def _content(self, file: str) -> str:
        return (await self.client.api.files.content(file)).text

    async def _call(self, action: Any, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        try:
            return await self.client.call(action, 0, timeout_s)
        except NoReplyError as error:
            raise UserError(
                "the endpoint's Batch API does not answer",
                where=endpoint_name(self.client.url),
                found=str(error),
                hint="run again; batches that were submitted are found again",
            ) from None


def _marker(batch: Any) -> str:
    return value_sha256(["batch collected", batch.id])


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _rows(answers: Path) -> list[JudgeRow]:
    frame = read_parquet(answers, {"question": pl.String, "text": pl.String})
    return [JudgeRow(q, t) for q, t in frame.select("question", "text").iter_rows()]


@app.command("run")
@command
def run_batch(answers: Path, params: ParamsFile = PARAMS) -> None:
    """Judges a Parquet file of answers (question, text) through the Batch API."""
    with Journal(JOURNAL) as journal:
        judge = OpenAIJudge(load_params(params).judging, journal)
        judgements = judge_batch(judge, _rows(answers), journal_folder() / "batches")
    lost = sum("api_error" in judgement.status.values() for judgement in judgements)
    typer.echo(f"{len(judgements) - lost} of {len(judgements)} answers judged")


@app.command()
@command
def write(answers: Path, folder: Path, params: ParamsFile = PARAMS) -> None:
    """Writes the requests that the journal has no reply to into batch files."""
    with Journal(JOURNAL) as journal:
        judge = OpenAIJudge(load_params(params).judging, journal)
        units, _ = judge.scan(_rows(answers), judge.mode)
        for path in write_files(folder, request_lines(judge, units, judge.mode)):
            typer.echo(path)


@app.command()
@command
def read(results: Path, params: ParamsFile = PARAMS) -> None:
    """Puts the replies of a batch's output file into the journal."""
    if not results.is_file():
        raise missing(results)
    with Journal(JOURNAL) as journal:
        judge = OpenAIJudge(load_params(params).judging, journal)
        text = results.read_text(encoding="utf-8")
        replies, failures = read_results(text, judge.mode, str(results))
        keep(judge, replies)
    typer.echo(f"{len(replies)} replies kept, {len(failures)} requests failed")


if __name__ == "__main__":
    app()
