"""The LLM judge through OpenAI's Batch API: half the price, an answer within a day.

Requests are submitted, waited for and journalled, after which the judging stages find everything
in the journal. It can be stopped at any moment: a batch carries a tag, so the next run finds it at
the endpoint again and submits nothing twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from em_geometry.errors import UserError
from em_geometry.hashing import value_sha256
from em_geometry.judging.client import (
    Client,
    MalformedReplyError,
    Mode,
    NoReplyError,
    Reply,
    endpoint_name,
    estimate_tokens,
    output_tokens,
    read_reply,
    request_body,
    run_async,
)
from em_geometry.judging.judge import Judgement, JudgeRow
from em_geometry.judging.openai_judge import SPENT_KEY, OpenAIJudge, Unit
from em_geometry.progress import Progress

URL: Final = "/v1/chat/completions"
MOST_REQUESTS = 50_000  # in one file, by the Batch API's rules
MOST_BYTES = 190_000_000  # the rule is 200 MB
PRICE = 0.5  # of what the same requests cost one by one
POLL_S = 60.0
CALL_TIMEOUT_S = 60.0
FILE_TIMEOUT_S = 900.0
ENDED = {"completed", "expired", "cancelled", "failed"}
TAG, FILE = "em_geometry_judge", "em_geometry_file"  # keys of a batch's metadata


def judge_batch(
    judge: OpenAIJudge, rows: Sequence[JudgeRow], poll_s: float = POLL_S
) -> list[Judgement]:
    """As `OpenAIJudge.judge`, through the Batch API.

    Args:
        poll_s: seconds between two looks at the batches.
    Raises:
        UserError: as `judge`, or the endpoint has no Batch API or rejects a file.
    """
    failures = run_async(_Batches(judge, poll_s).run(rows))
    return judge.collect(rows, failures)


class _Batches:
    """The batches of one judge at its endpoint."""

    def __init__(self, judge: OpenAIJudge, poll_s: float) -> None:
        self.judge, self.poll_s = judge, poll_s

    async def run(self, rows: Sequence[JudgeRow]) -> dict[str, str]:
        """Finishes what earlier runs submitted, submits the rest, finishes that too."""
        async with Client(self.judge.params) as self.client:
            self.mode = await self.judge.probe(self.client)
            self.tag = value_sha256([self.judge.name, self.mode])
            failures = await self._finish(await self._open())
            units, _ = self.judge.scan(rows, self.mode)
            if units:
                self._check_budget(units)
                parts = files(request_lines(self.judge, units, self.mode))
                failures = await self._finish([await self._submit(part) for part in parts])
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

    async def _submit(self, content: bytes) -> Any:
        """Uploads a file of requests and makes a batch of it.

        A failed attempt may have made the batch all the same, so each attempt looks first.
        """
        api, name = self.client.api, hashlib.sha256(content).hexdigest()

        async def upload() -> str:
            named = ("requests.jsonl", content)
            return (await api.files.create(file=named, purpose="batch")).id

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
            content = await self._call(partial(self.client.api.files.content, file), FILE_TIMEOUT_S)
            more, reasons = read_results(content.text, self.mode, f"batch {batch.id}, file {file}")
            replies |= more
            failures |= reasons
        self._keep(replies, _marker(batch))
        return failures

    def _keep(self, replies: dict[str, Reply], marker: str) -> None:
        """Journals replies, what they cost, and that their batch is collected: all or nothing."""
        budget, there = self.judge.budget, self.judge.journal.get(list(replies))
        for key, reply in replies.items():
            if key not in there:
                budget.settle(0.0, PRICE * budget.cost(*reply["tokens"]))
        spent = {SPENT_KEY: budget.spent} if budget.priced else {}
        self.judge.journal.put({**replies, **spent, marker: True})

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


def request_lines(judge: OpenAIJudge, units: Iterable[Unit], mode: Mode) -> Iterator[bytes]:
    """Lines of a file of requests; `custom_id` is the reply's key in the journal."""
    for unit in units:
        body = request_body(str(judge.params.model), judge.prompt(unit), mode, unit.sample)
        line = {"custom_id": unit.key, "method": "POST", "url": URL, "body": body}
        yield json.dumps(line, ensure_ascii=False).encode() + b"\n"


def files(lines: Iterable[bytes]) -> list[bytes]:
    """Lines as contents of files that keep to the Batch API's limits."""
    parts: list[list[bytes]] = []
    size = MOST_BYTES
    for line in lines:
        if size + len(line) > MOST_BYTES or len(parts[-1]) == MOST_REQUESTS:
            parts.append([])
            size = 0
        parts[-1].append(line)
        size += len(line)
    return [b"".join(part) for part in parts]


class _Response(BaseModel):
    status_code: int | None = None
    body: Any = None


class _Result(BaseModel):
    """A line of an output or error file; servers disagree on the form of `error`."""

    custom_id: str
    response: _Response | None = None
    error: Any = None


def read_results(text: str, mode: Mode, where: str) -> tuple[dict[str, Reply], dict[str, str]]:
    """Replies, and reasons for missing ones, by key, from an output or error file.

    Raises:
        UserError: a line is no result of a batch.
    """
    replies: dict[str, Reply] = {}
    failures: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            result = _Result.model_validate_json(line)
        except ValidationError:
            raise UserError(
                "not a result of a batch",
                where=f"{where}, line {number}",
                found=line[:80],
                expected="the output file of a batch, with a custom_id in every line",
            ) from None
        response = result.response or _Response()
        if response.status_code == 200:
            try:
                replies[result.custom_id] = read_reply(response.body, mode)
            except MalformedReplyError as error:
                failures[result.custom_id] = str(error)
        else:
            reason = _said(result.error) or _said(response.body) or "no reason given"
            failures[result.custom_id] = f"status {response.status_code}: {reason}"
    return replies, failures


def _said(error: Any) -> str:
    """The message in an error: a text, an object that holds one, or an object within an object."""
    while isinstance(error, dict):
        error = error.get("message") or error.get("error")
    return str(error or "")
