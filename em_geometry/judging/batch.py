"""The LLM judge through OpenAI's Batch API: half the price, an answer within a day.

Requests are submitted, waited for and journalled, after which the judging stages find everything
in the journal. It can be stopped at any moment: a batch carries a tag, so the next run finds it at
the endpoint again and submits nothing twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from em_geometry.errors import UserError
from em_geometry.hashing import value_sha256
from em_geometry.judging.client import (
    OPENAI_URL,
    Client,
    MalformedReplyError,
    Mode,
    NoReplyError,
    Reply,
    endpoint_name,
    read_reply,
)
from em_geometry.judging.judge import Judgement, JudgeRow
from em_geometry.judging.openai_judge import OpenAIJudge, Unit
from em_geometry.progress import Progress

if TYPE_CHECKING:
    from openai.types import Batch

URL: Final = "/v1/chat/completions"
MOST_REQUESTS = 50_000  # in one file, by the Batch API's rules
MOST_BYTES = 190_000_000  # the rule is 200 MB
PRICE = 0.5  # of what the same requests cost one by one
POLL_S = 60.0  # between two looks at the batches
FILE_TIMEOUT_S = 900.0
ENDED = {"completed", "expired", "cancelled", "failed"}
TAG, FILE = "em_geometry_judge", "em_geometry_file"  # keys of a batch's metadata


def judge_batch(judge: OpenAIJudge, rows: Sequence[JudgeRow]) -> list[Judgement]:
    """As `OpenAIJudge.judge`, through the Batch API.

    Raises:
        UserError: as `judge`, or the endpoint has no Batch API or rejects a file.
    """
    try:
        failures = asyncio.run(_Batches(judge).run(rows))
    except NoReplyError as error:
        raise UserError(
            "the endpoint's Batch API does not answer",
            where=endpoint_name(judge.params.base_url or OPENAI_URL),
            found=str(error),
            hint="run again; batches that were submitted are found again",
        ) from None
    return judge.collect(rows, failures)


class _Batches:
    """The batches of one judge at its endpoint."""

    def __init__(self, judge: OpenAIJudge) -> None:
        self.judge = judge

    async def run(self, rows: Sequence[JudgeRow]) -> dict[str, str]:
        """Finishes what earlier runs submitted, submits the rest, finishes that too."""
        judge = self.judge
        async with Client(judge.params) as self.client:
            await judge.probe(self.client)
            self.tag = value_sha256([judge.name, judge.mode])
            tagged = {_marker(batch): batch for batch in await self.client.call(self._tagged)}
            collected = judge.journal.get(list(tagged))
            failures = await self._finish([b for m, b in tagged.items() if m not in collected])
            units, _ = judge.scan(rows)
            if units:
                with judge.budget.holding(PRICE * judge.budget.cost(*judge.estimate(units))):
                    parts = files(map(self._line, units))
                    failures = await self._finish([await self._submit(part) for part in parts])
        return failures

    def _line(self, unit: Unit) -> bytes:
        about = {"custom_id": unit.key, "method": "POST", "url": URL}
        line = about | {"body": self.judge.body(unit)}
        return json.dumps(line, ensure_ascii=False).encode() + b"\n"

    async def _tagged(self) -> list[Batch]:
        batches = self.client.api.batches.list(limit=100)
        return [b async for b in batches if (b.metadata or {}).get(TAG) == self.tag]

    async def _submit(self, content: bytes) -> Batch:
        """Uploads a file of requests and makes a batch of it.

        A failed attempt may have made the batch all the same, so each attempt looks first.
        """
        api, about = self.client.api, {TAG: self.tag, FILE: hashlib.sha256(content).hexdigest()}
        upload = partial(api.files.create, file=("requests.jsonl", content), purpose="batch")
        uploaded = await self.client.call(upload, timeout_s=FILE_TIMEOUT_S)

        async def create() -> Batch:
            for batch in await self._tagged():
                if batch.metadata == about and batch.status not in ENDED:
                    return batch
            return await api.batches.create(
                input_file_id=uploaded.id, endpoint=URL, completion_window="24h", metadata=about
            )

        return await self.client.call(create)

    async def _finish(self, batches: Sequence[Batch]) -> dict[str, str]:
        """Waits for batches and journals each as it ends; returns reasons for missing replies."""
        failures, waiting = dict[str, str](), list(batches)
        if not waiting:
            return failures
        with Progress("judge, batches", len(waiting), unit="batches") as progress:
            while waiting:
                for batch in [b for b in waiting if b.status in ENDED]:
                    failures |= await self._collect(batch)
                    waiting.remove(batch)
                    progress.advance()
                if waiting:
                    await asyncio.sleep(POLL_S)
                    looks = [partial(self.client.api.batches.retrieve, b.id) for b in waiting]
                    waiting = [await self.client.call(look) for look in looks]
        return failures

    async def _collect(self, batch: Batch) -> dict[str, str]:
        """Journals replies, what they cost, and that their batch is collected: all or nothing."""
        judge, marks = self.judge, [_marker(batch)]
        if batch.status == "failed":
            judge.store({}, marks=marks)
            errors = (batch.errors and batch.errors.data) or []
            raise UserError(
                "the endpoint rejected a batch",
                where=f"{endpoint_name(self.client.url)}, batch {batch.id}",
                found=errors[0].message if errors else "no reason given",
            )
        replies, failures = dict[str, Reply](), dict[str, str]()
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            load = partial(self.client.api.files.content, file)
            content = await self.client.call(load, timeout_s=FILE_TIMEOUT_S)
            more, reasons = read_results(content.text, judge.mode, f"batch {batch.id}, file {file}")
            replies |= more
            failures |= reasons
        there = judge.journal.get(list(replies))
        fresh = {key: reply for key, reply in replies.items() if key not in there}
        judge.store(fresh, price=PRICE, marks=marks)
        return failures


def _marker(batch: Batch) -> str:
    return value_sha256(["batch collected", batch.id])


def files(lines: Iterable[bytes]) -> list[bytes]:
    """Lines as contents of files that keep to the Batch API's limits."""
    parts, requests = [bytearray()], 0
    for line in lines:
        if requests == MOST_REQUESTS or len(parts[-1]) + len(line) > MOST_BYTES:
            parts.append(bytearray())
            requests = 0
        parts[-1] += line
        requests += 1
    return list(map(bytes, parts))


def read_results(text: str, mode: Mode, where: str) -> tuple[dict[str, Reply], dict[str, str]]:
    """Replies, and reasons for missing ones, by key, from an output or error file.

    Raises:
        UserError: a line is no result of a batch.
    """
    replies, failures = dict[str, Reply](), dict[str, str]()
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            result = json.loads(line)
            key, response = str(result["custom_id"]), result.get("response") or {}
            status, body = response.get("status_code"), response.get("body")
        except (ValueError, LookupError, TypeError, AttributeError):
            raise UserError(
                "not a result of a batch",
                where=f"{where}, line {number}",
                found=line[:80],
                expected="the output file of a batch, with a custom_id in every line",
            ) from None
        if status != 200:
            reason = _said(result.get("error")) or _said(body) or "no reason given"
            failures[key] = f"status {status}: {reason}"
            continue
        try:
            replies[key] = read_reply(body, mode)
        except MalformedReplyError as error:
            failures[key] = str(error)
    return replies, failures


def _said(error: Any) -> str:
    """What an error says, whose form differs by server: a text, or objects around one."""
    while isinstance(error, dict):
        error = error.get("message") or error.get("error")
    return str(error or "")
