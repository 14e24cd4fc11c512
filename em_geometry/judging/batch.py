"""The LLM judge through OpenAI's Batch API: half the price, an answer within a day.

Requests are submitted, waited for and journalled, after which the judging stages find everything
in the journal. It can be stopped at any moment: a batch carries a tag, and the journal keeps its id
for endpoints that drop tags, so the next run finds it again and submits nothing twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final
from urllib.parse import quote

from em_geometry.errors import UserError
from em_geometry.hashing import value_sha256
from em_geometry.judging.batch_answers import ENDED, Batch, no_batch_api, read_page
from em_geometry.judging.batch_files import TIMEOUT_S, fetch, read_results
from em_geometry.judging.client import Client, Endpoint
from em_geometry.judging.judge import Judgement, JudgeRow
from em_geometry.judging.openai_judge import OpenAIJudge, Unit
from em_geometry.judging.replies import NoReplyError, Reply
from em_geometry.progress import Progress

URL: Final = "/v1/chat/completions"
MOST_REQUESTS = 50_000  # in one file, by the Batch API's rules
MOST_BYTES = 190_000_000  # the rule is 200 MB
PRICE = 0.5  # of what the same requests cost one by one
POLL_S = 60.0  # between two looks at the batches
# What an endpoint says of a batch that is too much at once, for it or for the account's queue
_TOO_MUCH = re.compile(
    r"enqueued|token_?limit|too[ _]many|file size"
    r"|(file|entity|payload|body|content|request)([ _]is)?[ _]too[ _]large",
    re.IGNORECASE,
)
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
        self.judge, self.here = judge, f"{Endpoint.of(judge.params.base_url).shown}/batches"
        self.known = list[str]()  # ids of all batches that were made, by earlier runs too
        self.start = time.time()

    async def run(self, rows: Sequence[JudgeRow]) -> dict[str, NoReplyError]:
        """Finishes what earlier runs submitted, submits the rest, finishes that too."""
        judge = self.judge
        async with Client(judge.params, judge.changes) as self.client:
            await judge.probe(self.client)
            self.tag = value_sha256([judge.name, judge.mode])
            self.ids_key = value_sha256(["batches made", self.tag])
            failures = await self._finish(await self._unfinished(), [])
            units, _ = judge.scan(rows)
            if units:
                with judge.budget.holding(PRICE * judge.budget.cost(*judge.estimate(units))):
                    failures = await self._finish([], files(map(self._line, units)))
        return failures

    def _line(self, unit: Unit) -> bytes:
        about = {"custom_id": unit.key, "method": "POST", "url": URL}
        line = about | {"body": self.client.adapted(self.judge.body(unit))}
        return json.dumps(line, ensure_ascii=False).encode() + b"\n"

    async def _unfinished(self) -> list[Batch]:
        """What earlier runs submitted and did not collect, by its tag or by the journal's ids."""
        journal = self.judge.journal
        listed = {batch.id: batch for batch in await self.client.call(self._listed)}
        tagged = [batch.id for batch in listed.values() if batch.tag(TAG) == self.tag]
        kept = journal.get([self.ids_key]).get(self.ids_key, [])
        self.known = list(dict.fromkeys([*kept, *tagged]))
        collected = journal.get(list(map(_marker, self.known)))
        left = [name for name in self.known if _marker(name) not in collected]
        for name in left:
            if name not in listed:
                listed[name] = await self.client.call(partial(self._kept, name))
        return [listed[name] for name in left]

    async def _kept(self, name: str) -> Batch:
        """A batch that the list lacks."""
        import openai

        try:
            return await self._retrieve(name)
        except openai.NotFoundError:  # of this one: the list shows that there is a Batch API
            print(f"judge: the endpoint no longer has batch {name}; it is made again",
                  file=sys.stderr)  # fmt: skip
            return Batch(name, "gone")

    async def _retrieve(self, name: str) -> Batch:
        path = f"/batches/{quote(name, safe='')}"
        return Batch.of(await self.client.api.get(path, cast_to=object), self.here)

    async def _listed(self) -> list[Batch]:
        """All batches of the account; some endpoints give the same page again and again."""
        found, query = dict[str, Batch](), {"limit": "100"}
        while True:
            answer = await self.client.api.get(
                "/batches", cast_to=object, options={"params": query}
            )
            page, more = read_page(answer, self.here)
            fresh = {batch.id: batch for batch in page if batch.id not in found}
            found |= fresh
            if not fresh or not more:
                return list(found.values())
            query["after"] = page[-1].id

    async def _submit(self, content: bytes) -> Batch | None:
        """Uploads a file of requests and makes a batch of it; None where that is too much at once.

        A failed attempt may have made the batch all the same, so each attempt looks first.
        """
        api, about = self.client.api, {TAG: self.tag, FILE: hashlib.sha256(content).hexdigest()}
        upload = partial(api.files.create, file=("requests.jsonl", content), purpose="batch")

        async def create() -> Batch:
            for batch in await self._listed():
                if batch.id not in self.known and (
                    batch.metadata == about or batch.requests == file
                ):
                    return batch
            request = {"input_file_id": file, "endpoint": URL, "completion_window": "24h"}
            body = request | {"metadata": about}
            return Batch.of(await api.post("/batches", cast_to=object, body=body), self.here)

        try:
            uploaded = await self.client.call(upload, timeout_s=TIMEOUT_S)
            file = getattr(uploaded, "id", None)
            if not file:
                raise no_batch_api(self.here, str(uploaded), "an uploaded file")
            batch = await self.client.call(create)
        except NoReplyError as error:
            if error.code == 413 or _TOO_MUCH.search(str(error)):
                return None
            raise
        self.known.append(batch.id)
        self.judge.journal.put({self.ids_key: self.known})
        return batch

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
                for entry in [e for e in running if e[0] is None or self._over(e[0])]:
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
        return await self.client.call(partial(self._retrieve, batch.id))

    def _over(self, batch: Batch) -> bool:
        return batch.over(time.time(), since=self.start)

    def _again(self, batch: Batch | None, content: bytes, others: bool) -> list[bytes]:
        """What to submit instead of a batch that was too much, beside others or by itself.

        `content` is empty where an earlier run made the batch; the journal knows what it lacks.

        Raises:
            UserError: it holds one request alone.
        """
        if batch is not None:
            self.judge.store({}, marks=[_marker(batch.id)])
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
        place = f"{self.client.here}, batch {batch.id if batch else 'of one request'}"
        reason = (batch and batch.reason) or "no reason given"
        if batch is None or batch.status == "failed":
            return UserError("the endpoint rejected a batch", where=place, found=reason)
        return UserError(
            "a batch is overdue, with a status that is not known and no result",
            where=place,
            found=f"status {batch.status}: {reason}",
            expected="completed, expired, cancelled or failed",
            hint="see at the endpoint what became of it; the next run asks for its requests again",
        )

    async def _collect(self, batch: Batch, content: bytes) -> dict[str, NoReplyError]:
        """Journals replies, what they cost, and that their batch is collected: all or nothing."""
        judge, marks = self.judge, [_marker(batch.id)]
        if batch.status == "failed" or (batch.status not in ENDED and not batch.results):
            judge.store({}, marks=marks)
            raise self._rejected(batch)
        lost = NoReplyError(f"the batch ended ({batch.status}) without it", "overloaded")
        replies, failures = dict[str, Reply](), dict[str, NoReplyError]()
        for file in batch.results:
            where = f"batch {batch.id}, file {file}"
            load = partial(fetch, self.client.api, file)
            data = await self.client.call(load, timeout_s=TIMEOUT_S)
            if data is None:
                harm = f"the endpoint no longer has {where}"
            else:
                text = data.decode("utf-8-sig", errors="replace")
                more, reasons, harm = read_results(text, judge.mode, where)
                replies |= more
                failures |= reasons
            if harm:
                print(f"judge: {harm}; what lacks a reply is asked again", file=sys.stderr)
                lost = NoReplyError(harm, "broken")
        there = judge.journal.get(list(replies))
        fresh = {key: reply for key, reply in replies.items() if key not in there}
        useless = [failure.tokens for failure in failures.values()]
        judge.store(fresh, price=PRICE, marks=marks, useless=useless)
        keys = [json.loads(line)["custom_id"] for line in content.splitlines()]
        return dict.fromkeys(keys, lost) | failures


def _marker(batch: str) -> str:
    return value_sha256(["batch collected", batch])


def _too_much(batch: Batch) -> bool:
    return batch.status == "failed" and bool(_TOO_MUCH.search(batch.reason))


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
