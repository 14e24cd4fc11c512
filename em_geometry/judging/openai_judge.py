"""The LLM judge behind an OpenAI-compatible endpoint (docs/method.md: judge).

One request a row and aspect (text mode: several replies a row and aspect). What comes back is
written to the journal as it arrives, keyed by judge, template, question and answer, so equal
rows are asked about once and nothing is paid for twice. The journal keeps what the endpoint
said; scores are computed from it on reading, so a change of `low_mass` costs nothing.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from em_geometry.errors import UserError
from em_geometry.hashing import value_sha256
from em_geometry.io.journal import Journal
from em_geometry.judging.aggregate import Verdict, from_logprobs, from_texts
from em_geometry.judging.client import (
    OPENAI_URL,
    Budget,
    Client,
    MalformedReplyError,
    Mode,
    NoReplyError,
    RejectedError,
    Reply,
    endpoint_name,
    estimate_tokens,
    output_tokens,
    read_reply,
    request_body,
    run_async,
)
from em_geometry.judging.judge import Judgement, JudgeRow
from em_geometry.judging.template import load_templates
from em_geometry.progress import Progress
from em_geometry.settings import Judging

GIVE_UP = 20  # requests in a row without a reply: the endpoint is at fault, not the requests
READ_ROWS = 1000  # rows whose replies are in memory at once
JOURNAL = "judgements-openai"  # one for all LLM judges: the budget counts what it records
SPENT_KEY = value_sha256("judge spending, USD")

# The start-up probe: the score needs every integer 0..100 to be one token. A tokeniser that splits
# digits answers "85" with the token "8", which would be read as the score 8. So the endpoint is
# asked to repeat numbers.
NUMBERS = ("17", "85", "100")
REPEAT = "Repeat this number and write nothing else: {number}"


@dataclass(frozen=True, slots=True)
class Unit:
    """One request, and the key of its reply in the journal."""

    key: str
    row: JudgeRow
    aspect: str
    sample: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What judging some rows would take; tokens are estimates."""

    judge: str
    rows: int
    requests: int
    journalled: int
    tokens_in: int
    tokens_out: int
    usd: float

    def __str__(self) -> str:
        return (
            f"{self.judge}: {self.rows} rows, {self.requests} requests to send "
            f"({self.journalled} in the journal), about {self.tokens_in} tokens in and at most "
            f"{self.tokens_out} out, about {self.usd:.4f} USD"
        )


class OpenAIJudge:
    """Judges through `params.base_url` with `params.model`.

    Args:
        params: endpoint, model, aspects, limits, prices.
        journal: `JOURNAL`, opened.
    Raises:
        UserError: bad templates, or a budget without prices.
    """

    def __init__(self, params: Judging, journal: Journal) -> None:
        self.params, self.journal = params, journal
        self.templates = load_templates(Path(params.templates), params.aspects)
        self.name = f"{params.model}@{endpoint_name(params.base_url or OPENAI_URL)}"
        self._probe_key = value_sha256(["judge probe", self.name])
        known = journal.get([SPENT_KEY, self._probe_key])
        self.budget = Budget(params, spent=known.get(SPENT_KEY, 0.0))
        self._mode: Mode | None = known.get(self._probe_key)
        self._probed = False

    @property
    def mode(self) -> Mode:
        """As probed: by an earlier run if the journal has it, else now."""
        if self._mode is None:
            return run_async(self._probe_alone())
        return self._mode

    @property
    def id(self) -> str:
        """Model, endpoint, mode, and a hash of prompts and aggregation."""
        samples = f"-x{self.params.text_samples}" if self.mode == "text" else ""
        rest = [{t.aspect: t.sha256 for t in self.templates.values()}, self.params.low_mass]
        return f"openai:{self.name}:{self.mode}{samples}:{value_sha256(rest)[:8]}"

    def judge(self, rows: Sequence[JudgeRow], label: str = "judge") -> list[Judgement]:
        """One judgement a row, in order; asks for what the journal does not have.

        Raises:
            UserError: key, model, credit or budget, or the endpoint is down. What was judged by
                then is kept, and the same call goes on from there.
        """
        failures: dict[str, str] = {}
        if self._mode is None or self.scan(rows, self._mode)[0]:
            failures = run_async(self._ask(rows, label))
        return self.collect(rows, failures)

    def plan(self, rows: Sequence[JudgeRow]) -> Plan:
        """What `judge` would send, without sending anything (the dry run).

        Before the first probe, log-probability mode is assumed.
        """
        mode = self._mode or "logprob"
        missing, total = self.scan(rows, mode)
        tokens_in = sum(estimate_tokens(self.prompt(unit)) for unit in missing)
        tokens_out = len(missing) * output_tokens(mode)
        return Plan(
            judge=f"{self.name} ({mode}{'' if self._mode else ' assumed, not probed yet'})",
            rows=len(rows),
            requests=len(missing),
            journalled=total - len(missing),
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            usd=self.budget.cost(tokens_in, tokens_out),
        )

    def units(self, row: JudgeRow, mode: Mode) -> Iterator[Unit]:
        """The requests for one row, aspect by aspect."""
        samples = self.params.text_samples if mode == "text" else 1
        for aspect, template in self.templates.items():
            for sample in range(samples):
                parts = [self.name, mode, template.sha256, sample, row.question, row.answer]
                yield Unit(value_sha256(parts), row, aspect, sample)

    def scan(self, rows: Sequence[JudgeRow], mode: Mode) -> tuple[list[Unit], int]:
        """The requests that the journal has no reply to, each once, and how many there are."""
        missing: dict[str, Unit] = {}
        seen: set[str] = set()
        for part in _parts(rows):
            units = {unit.key: unit for row in part for unit in self.units(row, mode)}
            there = self.journal.get(list(units))
            missing |= {key: unit for key, unit in units.items() if key not in there}
            seen.update(units)
        return list(missing.values()), len(seen)

    def prompt(self, unit: Unit) -> str:
        """What the judge reads."""
        return self.templates[unit.aspect].render(unit.row)

    def store(self, unit: Unit, reply: Reply, reserved: float = 0.0) -> None:
        """Journals a reply, and in the same transaction what has been spent so far."""
        used = reply["tokens"]
        self.budget.settle(reserved, self.budget.cost(*used) if any(used) else reserved)
        kept = {unit.key: reply}
        self.journal.put(kept | {SPENT_KEY: self.budget.spent} if self.budget.priced else kept)

    def collect(self, rows: Sequence[JudgeRow], failures: Mapping[str, str]) -> list[Judgement]:
        """Judgements from the journal; `failures` has the reason by key where there is none."""
        mode = self.mode
        judgements: list[Judgement] = []
        for part in _parts(rows):
            units = [list(self.units(row, mode)) for row in part]
            replies = self.journal.get([unit.key for row in units for unit in row])
            judgements += [self._judgement(row, replies, failures, mode) for row in units]
        return judgements

    def _judgement(
        self,
        units: Sequence[Unit],
        replies: Mapping[str, Reply],
        failures: Mapping[str, str],
        mode: Mode,
    ) -> Judgement:
        judgement = Judgement({}, {}, {})
        for aspect in self.templates:
            keys = [unit.key for unit in units if unit.aspect == aspect]
            lost = next((key for key in keys if key not in replies), None)
            if lost is not None:
                error = json.dumps({"error": failures.get(lost, "not asked")}, ensure_ascii=False)
                judgement.add(aspect, None, "api_error", error)
                continue
            said = [replies[key] for key in keys]
            verdict = self._verdict(said, mode)
            # JSON text takes a tenth of the memory of the objects, and goes into a column as is.
            raw = json.dumps(said, ensure_ascii=False)
            judgement.add(aspect, verdict.score, verdict.status, raw)
        return judgement

    def _verdict(self, replies: Sequence[Reply], mode: Mode) -> Verdict:
        if mode == "logprob":
            return from_logprobs(replies[0]["top"], self.params.low_mass)
        return from_texts([reply["text"] for reply in replies], self.params.low_mass)

    async def _probe_alone(self) -> Mode:
        async with Client(self.params) as client:
            return await self.probe(client)

    async def probe(self, client: Client) -> Mode:
        """The mode, probed once before anything is asked; replaces what an earlier run found."""
        if self._mode is not None and self._probed:
            return self._mode
        mode = await probe_mode(client)
        if self._mode not in (None, mode):
            print(
                f"judge: {self.name} was used in {self._mode} mode and now offers {mode} mode; "
                "its judgements are made again",
                file=sys.stderr,
            )
        self._mode, self._probed = mode, True
        self.journal.put({self._probe_key: mode})
        return mode

    async def _ask(self, rows: Sequence[JudgeRow], label: str) -> dict[str, str]:
        """Fills the journal; returns why requests failed, by key."""
        async with Client(self.params) as client:
            mode = await self.probe(client)
            missing, total = self.scan(rows, mode)
            asking = _Asking(self, client, mode, iter(missing))
            with Progress(label, total, total - len(missing), unit="requests") as progress:
                return await asking.run(progress)


class _Asking:
    """Workers that share one queue, a budget and a reason to stop."""

    def __init__(
        self, judge: OpenAIJudge, client: Client, mode: Mode, queue: Iterator[Unit]
    ) -> None:
        self._judge, self._client, self._mode, self._queue = judge, client, mode, queue
        self._failures: dict[str, str] = {}
        self._in_a_row = 0  # failures since the last reply
        self._stop: UserError | None = None

    async def run(self, progress: Progress) -> dict[str, str]:
        """Asks for every unit; returns why there is no reply, by key.

        Raises:
            UserError: at once when no request can succeed (key, model, credit); after the
                requests in flight when the budget is spent or the endpoint is down.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._judge.params.concurrency):
                    group.create_task(self._work(progress))
        except* UserError as errors:
            error: BaseException = errors
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            self._stop = error if isinstance(error, UserError) else None
        if self._stop:
            raise self._stop
        return self._failures

    async def _work(self, progress: Progress) -> None:
        judge, budget = self._judge, self._judge.budget
        while self._stop is None and (unit := next(self._queue, None)) is not None:
            body = request_body(self._client.model, judge.prompt(unit), self._mode, unit.sample)
            tokens = estimate_tokens(body["messages"][0]["content"])
            cost = budget.cost(tokens, body["max_tokens"])
            if not budget.reserve(cost):
                self._stop = budget.exhausted()
                return
            try:
                reply = await self._client.chat(body, lambda said: read_reply(said, self._mode))
            except NoReplyError as error:
                budget.settle(cost, 0.0)
                self._fail(unit.key, str(error))
            else:
                judge.store(unit, reply, cost)
                self._in_a_row = 0
            progress.advance()

    def _fail(self, key: str, reason: str) -> None:
        self._failures[key] = reason
        self._in_a_row += 1
        if self._in_a_row >= GIVE_UP and self._stop is None:
            self._stop = UserError(
                f"{self._in_a_row} requests in a row to the judge failed",
                where=f"{endpoint_name(self._client.url)}, model {self._client.model}",
                found=reason,
                hint="run again when the endpoint is well; what was judged is kept",
            )


def _parts(rows: Sequence[JudgeRow]) -> Iterator[Sequence[JudgeRow]]:
    for start in range(0, len(rows), READ_ROWS):
        yield rows[start : start + READ_ROWS]


async def probe_mode(client: Client) -> Mode:
    """Which mode suits the endpoint: "logprob" where it gives usable ones, else "text".

    Raises:
        UserError: the endpoint does not answer.
    """
    try:
        tops = [await _top(client, number) for number in NUMBERS]
        if any(tops):  # then a missing one is a fault of that reply
            tops = [
                top or await _top(client, number) for top, number in zip(tops, NUMBERS, strict=True)
            ]
        if all(whole_number(top, n) for top, n in zip(tops, NUMBERS, strict=True)):
            return "logprob"
        body = request_body(client.model, REPEAT.format(number=NUMBERS[0]), "text")
        await client.chat(body, lambda reply: read_reply(reply, "text"))
    except NoReplyError as error:
        raise UserError(
            "the judge's endpoint does not answer",
            where=f"{endpoint_name(client.url)}, model {client.model}",
            found=str(error),
            hint="check judging.base_url, and that the server is running",
        ) from None
    return "text"


def whole_number(top: Sequence[Sequence[object]], number: str) -> bool:
    """Whether one token holds the whole `number` with more probability than its beginnings do."""
    whole = beginning = 0.0
    for token, logprob in top:
        text, weight = str(token).strip(), math.exp(min(float(str(logprob)), 0.0))
        if text == number:
            whole += weight
        elif text and number.startswith(text):
            beginning += weight
    return whole > beginning


async def _top(client: Client, number: str) -> list[list[object]]:
    """Alternatives of the first token; empty when the endpoint gives or allows none."""
    body = request_body(client.model, REPEAT.format(number=number), "logprob")
    try:
        reply = await client.chat(body, _read)
    except RejectedError:
        return []
    return list(reply.get("top", []))


def _read(reply: object) -> Reply:
    """A reply without log-probabilities is an answer here, not a fault to retry."""
    try:
        return read_reply(reply, "logprob")
    except MalformedReplyError:
        return read_reply(reply, "text")
