"""The LLM judge through OpenAI's Batch API: half the price, an answer within a day.

Requests are submitted, waited for and journalled, after which the judging stages find everything
in the journal. It can be stopped at any moment: a batch carries a tag, so the next run finds it at
the endpoint again and submits nothing twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from em_geometry.errors import UserError
from em_geometry.hashing import value_sha256
from em_geometry.judging.client import Client, Endpoint
from em_geometry.judging.judge import Judgement, JudgeRow
from em_geometry.judging.openai_judge import OpenAIJudge, Unit
from em_geometry.judging.replies import (
    Mode,
    NoReplyError,
    Reply,
    filtered,
    read_reply,
    refusal,
    said,
)
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
# What an endpoint says of a batch that is too much at once, for it or for the account's queue
_TOO_MUCH = re.compile(r"enqueued|token_?limit|too[ _]many|file size", re.IGNORECASE)
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
            where=Endpoint.of(judge.params.base_url).shown,
            found=str(error),
            hint="run again; batches that were submitted are found again",
        ) from None
    return judge.collect(rows, failures)


class _Batches:
    """The batches of one judge at its endpoint."""

    def __init__(self, judge: OpenAIJudge) -> None:
        self.judge = judge

    async def run(self, rows: Sequence[JudgeRow]) -> dict[str, NoReplyError]:
        """Finishes what earlier runs submitted, submits the rest, finishes that too."""
        judge = self.judge
        async with Client(judge.params, judge.changes) as self.client:
            await judge.probe(self.client)
            self.tag = value_sha256([judge.name, judge.mode])
            tagged = {_marker(batch): batch for batch in await self.client.call(self._tagged)}
            collected = judge.journal.get(list(tagged))
            failures = await self._finish([b for m, b in tagged.items() if m not in collected], [])
            units, _ = judge.scan(rows)
            if units:
                with judge.budget.holding(PRICE * judge.budget.cost(*judge.estimate(units))):
                    failures = await self._finish([], files(map(self._line, units)))
        return failures

    def _line(self, unit: Unit) -> bytes:
        about = {"custom_id": unit.key, "method": "POST", "url": URL}
        line = about | {"body": self.client.adapted(self.judge.body(unit))}
        return json.dumps(line, ensure_ascii=False).encode() + b"\n"

    async def _tagged(self) -> list[Batch]:
        batches = self.client.api.batches.list(limit=100)
        return [b async for b in batches if (b.metadata or {}).get(TAG) == self.tag]

    async def _submit(self, content: bytes) -> Batch | None:
        """Uploads a file of requests and makes a batch of it; None where that is too much at once.

        A failed attempt may have made the batch all the same, so each attempt looks first.
        """
        api, about = self.client.api, {TAG: self.tag, FILE: hashlib.sha256(content).hexdigest()}
        upload = partial(api.files.create, file=("requests.jsonl", content), purpose="batch")

        async def create() -> Batch:
            for batch in await self._tagged():
                if batch.metadata == about and batch.status not in ENDED:
                    return batch
            return await api.batches.create(
                input_file_id=uploaded.id, endpoint=URL, completion_window="24h", metadata=about
            )

        try:
            uploaded = await self.client.call(upload, timeout_s=FILE_TIMEOUT_S)
            return await self.client.call(create)
        except NoReplyError as error:
            if _TOO_MUCH.search(str(error)):
                return None
            raise

    async def _finish(
        self, found: Sequence[Batch], contents: Sequence[bytes]
    ) -> dict[str, NoReplyError]:
        """Waits for batches, made of `contents` and found at the endpoint; journals each.

        All are submitted at once. When that is too much for the endpoint, one at a time, and one
        that is too much by itself in halves.

        Returns:
            Why there is no reply, by key.
        """
        failures, queue, alone = dict[str, NoReplyError](), list(contents), False
        running: list[tuple[Batch | None, bytes]] = [(batch, b"") for batch in found]
        if not queue and not running:
            return failures
        with Progress("judge, batches", len(queue) + len(running), unit="batches") as progress:
            while queue or running:
                while queue and not (alone and running):
                    content = queue.pop(0)
                    running.append((await self._submit(content), content))
                for entry in [e for e in running if e[0] is None or e[0].status in ENDED]:
                    running.remove(entry)
                    batch, content = entry
                    if batch is None or _too_much(batch):
                        alone = True
                        queue[:0] = self._again(batch, content, bool(running))
                    else:
                        failures |= await self._collect(batch, content)
                        progress.advance()
                if running:
                    await asyncio.sleep(POLL_S)
                    running = [(await self._look(batch), content) for batch, content in running]
        return failures

    async def _look(self, batch: Batch | None) -> Batch | None:
        """A batch as it is now."""
        if batch is None:
            return None
        return await self.client.call(partial(self.client.api.batches.retrieve, batch.id))

    def _again(self, batch: Batch | None, content: bytes, others: bool) -> list[bytes]:
        """What to submit instead of a batch that was too much, beside others or by itself.

        `content` is empty where an earlier run made the batch; the journal knows what it lacks.

        Raises:
            UserError: it holds one request alone.
        """
        if batch is not None:
            self.judge.store({}, marks=[_marker(batch)])
        lines = content.splitlines(keepends=True)
        if not lines or others:
            print("judge: too much at once for the endpoint; batches follow one another",
                  file=sys.stderr)  # fmt: skip
            return [content] if lines else []
        if len(lines) == 1:
            raise self._rejected(batch)
        middle = len(lines) // 2
        print(f"judge: {len(lines)} requests are too many for a batch; halved", file=sys.stderr)
        return [b"".join(lines[:middle]), b"".join(lines[middle:])]

    def _rejected(self, batch: Batch | None) -> UserError:
        return UserError(
            "the endpoint rejected a batch",
            where=f"{self.client.here}, batch {batch.id if batch else 'of one request'}",
            found=_errors(batch) or "no reason given",
        )

    async def _collect(self, batch: Batch, content: bytes) -> dict[str, NoReplyError]:
        """Journals replies, what they cost, and that their batch is collected: all or nothing."""
        judge, marks = self.judge, [_marker(batch)]
        if batch.status == "failed":
            judge.store({}, marks=marks)
            raise self._rejected(batch)
        keys = [json.loads(line)["custom_id"] for line in content.splitlines()]
        lost = NoReplyError(f"the batch was {batch.status} before its turn", "overloaded")
        replies, failures = dict[str, Reply](), dict.fromkeys(keys, lost)
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            load = partial(self.client.api.files.content, file)
            text = (await self.client.call(load, timeout_s=FILE_TIMEOUT_S)).text
            more, reasons = read_results(text, judge.mode, f"batch {batch.id}, file {file}")
            replies |= more
            failures |= reasons
        there = judge.journal.get(list(replies))
        fresh = {key: reply for key, reply in replies.items() if key not in there}
        judge.store(fresh, price=PRICE, marks=marks)
        return failures


def _marker(batch: Batch) -> str:
    return value_sha256(["batch collected", batch.id])


def _errors(batch: Batch | None) -> str:
    """What an endpoint says of a batch that it rejected."""
    return said(batch.errors.model_dump()["data"]) if batch and batch.errors else ""


def _too_much(batch: Batch) -> bool:
    return batch.status == "failed" and bool(_TOO_MUCH.search(_errors(batch)))


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


def read_results(
    text: str, mode: Mode, where: str
) -> tuple[dict[str, Reply], dict[str, NoReplyError]]:
    """Replies, and reasons for missing ones, by key, from an output or error file.

    Raises:
        UserError: a line is no result of a batch.
    """
    replies, failures = dict[str, Reply](), dict[str, NoReplyError]()
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
        try:
            if status != 200:  # none at all for a request whose turn never came
                raise refusal(result.get("error") or body, status)
            replies[key] = read_reply(body, mode)
        except NoReplyError as error:
            if error.status == "filtered":
                replies[key] = filtered(str(error))
            else:
                failures[key] = error
    return replies, failures
