"""The LLM judge behind an OpenAI-compatible endpoint (docs/method.md: judge).

One request a row and aspect (text mode: several replies a row and aspect). What comes back is
written to the journal as it arrives, keyed by judge, template, question and answer, so equal
rows are asked about once and nothing is paid for twice. The journal keeps what the endpoint
said; scores are computed from it on reading, so a change of `low_mass` costs nothing.
"""

import asyncio
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from em_geometry.errors import UserError
from em_geometry.hashing import value_sha256
from em_geometry.io.journal import Journal
from em_geometry.judging.client import (
    UNPRICED,
    Budget,
    Changes,
    Client,
    Endpoint,
    estimate_tokens,
    most_tokens,
    request_body,
)
from em_geometry.judging.judge import (
    Judgement,
    JudgeRow,
    Verdict,
    from_logprobs,
    from_texts,
    judge_id,
    load_templates,
    parse_text,
    token_meaning,
)
from em_geometry.judging.replies import (
    FILTERED,
    Mode,
    NoLogprobsError,
    NoReplyError,
    Reply,
    ThoughtError,
    read_reply,
)
from em_geometry.progress import Progress
from em_geometry.settings import Judging

GIVE_UP = 20  # requests in a row without a reply: the endpoint is at fault, not the requests
READ_ROWS = 1000  # rows whose replies are in memory at once
JOURNAL = "judgements-openai"  # one for all LLM judges: the budget counts what it records
SPENT_KEY = value_sha256("judge spending, USD")

NOT_ASKED = NoReplyError("not asked", "unreachable")

# The start-up probe asks for numbers that nobody gives who does not do as asked, twice each, as a
# single reply may lack what the others have. In log-prob mode each has to be one token: a tokeniser
# that splits digits answers "85" with "8", which would be read as the score 8.
NUMBERS = ("17", "85", "100")
TRIES = 2
REPEAT = "Repeat this number and write nothing else: "


@dataclass(frozen=True, slots=True)
class Unit:
    """One request, and the key of its reply in the journal."""

    key: str
    row: JudgeRow
    aspect: str
    sample: int


class OpenAIJudge:
    """Judges through `params.base_url` with `params.model`, into the journal `JOURNAL`.

    Attributes:
        mode: as an earlier run found it or, once there is something to ask, this one; until then
            assumed (and not `known`).
    Raises:
        UserError: bad templates, or no address.
    """

    def __init__(self, params: Judging, journal: Journal) -> None:
        self.params, self.journal = params, journal
        self.templates = load_templates(Path(params.templates), params.aspects)
        more = f"+{value_sha256(params.extra_body)[:8]}" if params.extra_body else ""
        self.name = f"{params.model}@{Endpoint.of(params.base_url).name}{more}"
        self.changes: Changes = {}
        self._probe_key = value_sha256(["judge probe", self.name])
        found = journal.get([SPENT_KEY, self._probe_key])
        self.budget = Budget(params, spent=found.get(SPENT_KEY, 0.0))
        self.mode: Mode = found.get(self._probe_key, "logprob")
        self.known, self._probed = self._probe_key in found, False
        self._in_a_row = 0  # requests that failed since the last that did not

    @property
    def id(self) -> str:
        """Model, endpoint, mode (probed now if it is not known), and what `judge_id` adds."""
        if not self.known:
            asyncio.run(self._ask([], "judge"))
        samples = f"-x{self.params.text_samples}" if self.mode == "text" else ""
        name = f"openai:{self.name}:{self.mode}{samples}"
        return judge_id(name, self.templates, self.params.low_mass)

    def judge(self, rows: Sequence[JudgeRow], label: str = "judge") -> list[Judgement]:
        """One judgement a row, in order; asks for what the journal does not have.

        Raises:
            UserError: key, model, credit or budget, or the endpoint is down. What was judged by
                then is kept, and the same call goes on from there.
        """
        failures: dict[str, NoReplyError] = {}
        if not self.known or self.scan(rows)[0]:
            failures = asyncio.run(self._ask(rows, label))
        return self.collect(rows, failures)

    def plan(self, rows: Sequence[JudgeRow]) -> str:
        """What `judge` would send, in words, without sending anything (the dry run)."""
        missing, total = self.scan(rows)
        tokens = self.estimate(missing)
        price = f"about {self.budget.cost(*tokens):.4f} USD" if self.budget.priced else UNPRICED
        return (
            f"{self.name} ({self.mode}{'' if self.known else ' assumed, not probed yet'}): "
            f"{len(rows)} rows, {len(missing)} requests to send "
            f"({total - len(missing)} in the journal), about {tokens[0]} tokens in and at most "
            f"{tokens[1]} out, {price}"
        )

    def estimate(self, units: Sequence[Unit]) -> tuple[int, int]:
        """About how many tokens go into requests, and at most how many come out."""
        tokens_in = sum(estimate_tokens(self.prompt(unit)) for unit in units)
        return tokens_in, len(units) * most_tokens(self.params, self.mode)

    def units(self, row: JudgeRow) -> Iterator[Unit]:
        """The requests for one row, aspect by aspect."""
        samples = self.params.text_samples if self.mode == "text" else 1
        for aspect, template in self.templates.items():
            for sample in range(samples):
                parts = [self.name, self.mode, template.sha256, sample, row.question, row.answer]
                yield Unit(value_sha256(parts), row, aspect, sample)

    def scan(self, rows: Sequence[JudgeRow]) -> tuple[list[Unit], int]:
        """The requests that the journal has no reply to, each once, and how many there are."""
        missing: dict[str, Unit] = {}
        seen: set[str] = set()
        for part in _parts(rows):
            units = {unit.key: unit for row in part for unit in self.units(row)}
            there = self.journal.get(list(units))
            missing |= {key: unit for key, unit in units.items() if key not in there}
            seen.update(units)
        return list(missing.values()), len(seen)

    def prompt(self, unit: Unit) -> str:
        """What the judge reads."""
        return self.templates[unit.aspect].render(unit.row)

    def body(self, unit: Unit) -> dict[str, Any]:
        """What the endpoint is sent."""
        return request_body(self.params, self.prompt(unit), self.mode, unit.sample)

    def store(
        self,
        replies: Mapping[str, Reply],
        estimate: float = 0.0,
        price: float = 1.0,
        marks: Iterable[str] = (),
        useless: Iterable[tuple[int, int]] = (),
    ) -> None:
        """Journals replies by key, with `marks`, and in the same transaction what has been spent.

        Args:
            estimate: USD that they cost, where the endpoint does not count tokens.
            price: share of the prices at which they were had.
            useless: tokens in and out of replies that are none.
        """
        used = [*(reply["tokens"] for reply in replies.values()), *useless]
        cost = price * sum(self.budget.cost(*tokens) for tokens in used)
        self.budget.spent += cost if any(map(any, used)) else estimate
        spent = {SPENT_KEY: self.budget.spent} if self.budget.priced else {}
        self.journal.put({**replies, **spent, **dict.fromkeys(marks, True)})

    def lose(self, tokens: tuple[int, int]) -> None:
        """Books a reply that was of no use; SpentError where the budget has no more room."""
        self.store({}, useless=[tokens])
        with self.budget.holding(0.0):
            pass

    def collect(
        self, rows: Sequence[JudgeRow], failures: Mapping[str, NoReplyError]
    ) -> list[Judgement]:
        """Judgements from the journal; `failures` says by key why there is none."""
        judgements: list[Judgement] = []
        for part in _parts(rows):
            units = [list(self.units(row)) for row in part]
            replies = self.journal.get([unit.key for row in units for unit in row])
            for asked in units:
                judgement = Judgement()
                for aspect, own in groupby(asked, lambda unit: unit.aspect):
                    keys = [unit.key for unit in own]
                    judgement.add(aspect, *self._judged(keys, replies, failures))
                judgements.append(judgement)
        return judgements

    def _judged(
        self,
        keys: Sequence[str],
        replies: Mapping[str, Reply],
        failures: Mapping[str, NoReplyError],
    ) -> tuple[Verdict, str]:
        """The verdict of some replies, and what it rests on.

        JSON text takes a tenth of the memory of the objects, and goes into a column as is.
        """
        lost = next((key for key in keys if key not in replies), None)
        if lost is not None:
            why = failures.get(lost, NOT_ASKED)
            return (None, why.status), json.dumps({"error": str(why)}, ensure_ascii=False)
        said, least = [replies[key] for key in keys], self.params.low_mass
        if any(reply["finish"] == FILTERED for reply in said):
            verdict: Verdict = (None, "filtered")
        elif self.mode == "logprob":
            verdict = from_logprobs(said[0]["top"], least)
        else:
            verdict = from_texts([reply["text"] for reply in said], least)
        return verdict, json.dumps(said, ensure_ascii=False)

    async def probe(self, client: Client) -> None:
        """Finds the mode once before anything is asked; it replaces what an earlier run found."""
        if self._probed:
            return
        mode = await probe_mode(client)
        if self.known and mode != self.mode:
            print(
                f"judge: {self.name} was used in {self.mode} mode and now offers {mode} mode; "
                "its judgements are made again",
                file=sys.stderr,
            )
        self.mode, self.known, self._probed = mode, True, True
        self.journal.put({self._probe_key: mode})

    async def _ask(self, rows: Sequence[JudgeRow], label: str) -> dict[str, NoReplyError]:
        """Fills the journal; returns why there is no reply, by key."""
        async with Client(self.params, self.changes, self.lose) as client:
            try:
                await self.probe(client)
                missing, total = self.scan(rows)
                if not missing:
                    return {}
                with Progress(label, total, total - len(missing), unit="requests") as progress:
                    return await self._ask_all(client, iter(missing), progress)
            except UserError as error:
                missing, total = self.scan(rows)
                if total:
                    left = f"{len(missing)} of {total} requests remain of: {label}"
                    error.hint = f"{error.hint}; {left}" if error.hint else left
                raise

    async def _ask_all(
        self, client: Client, queue: Iterator[Unit], progress: Progress
    ) -> dict[str, NoReplyError]:
        """Asks for every unit of the queue; returns why there is no reply, by key.

        Raises:
            UserError: after the requests in flight, which may have been paid for, when no request
                can succeed, the budget is spent, or the endpoint is down.
        """
        failures: dict[str, NoReplyError] = {}
        stop = list[UserError]()

        async def work() -> None:
            while not stop and (unit := next(queue, None)) is not None:
                body = client.adapted(self.body(unit))
                tokens = estimate_tokens(body["messages"][0]["content"])
                cost = self.budget.cost(tokens, most_tokens(self.params, self.mode))
                try:
                    with self.budget.holding(cost):
                        reply = await client.chat(body, partial(read_reply, mode=self.mode))
                        self.store({unit.key: reply}, cost)
                        self._in_a_row = 0
                except UserError as error:
                    stop.append(error)
                    return
                except NoReplyError as error:
                    failures[unit.key] = error
                    self._in_a_row += 1
                    if self._in_a_row >= GIVE_UP:
                        what = f"{self._in_a_row} requests in a row to the judge failed"
                        hint = f"{error.hint}; run again then, what was judged is kept"
                        stop.append(UserError(what, where=client.here, found=error, hint=hint))
                progress.advance()

        async with asyncio.TaskGroup() as group:
            for _ in range(self.params.concurrency):
                group.create_task(work())
        if stop:
            raise stop[0]
        return failures


def _parts(rows: Sequence[JudgeRow]) -> Iterator[Sequence[JudgeRow]]:
    for start in range(0, len(rows), READ_ROWS):
        yield rows[start : start + READ_ROWS]


async def probe_mode(client: Client) -> Mode:
    """Which mode suits the endpoint: "logprob" where it gives usable ones, else "text".

    Raises:
        UserError: the endpoint does not answer, or not with the number that it was asked for.
    """
    try:
        if await _other_reply(client, "logprob") is None:
            return "logprob"
    except NoReplyError as error:
        if error.status != "refused" and not isinstance(error, ThoughtError):
            raise _unfit(client, error) from None
    try:
        other = await _other_reply(client, "text")
    except NoReplyError as error:
        raise _unfit(client, error) from None
    if other is None:
        return "text"
    raise UserError(
        "the judge's endpoint does not reply as it is asked to",
        where=client.here,
        found=other,
        expected="that number and nothing else",
        hint=f"name a model that follows instructions; {ThoughtError.hint}",
    )


async def reachable(client: Client) -> None:
    """Asks an endpoint once; UserError where no reply comes back, or a key is refused."""
    try:
        await client.agree(request_body(client.params, REPEAT + NUMBERS[0], "text"), _text)
    except NoReplyError as error:
        raise _unfit(client, error) from None


def _text(reply: Any) -> Reply:
    return read_reply(reply, "text")


async def _other_reply(client: Client, mode: Mode) -> str | None:
    """The first reply without the number that was asked for; None where all have it."""

    def read(reply: Any) -> Reply:
        try:
            return read_reply(reply, mode)
        except NoLogprobsError:  # it is an answer here, no fault
            return {"text": "no log-probabilities", "top": []}

    for number in NUMBERS:
        said = ""
        for sample in range(TRIES):
            body = request_body(client.params, REPEAT + number, mode, sample)
            reply = await client.agree(body, read)
            said = reply["text"]
            right = parse_text(said) == float(number) and reply.get("finish") != FILTERED
            if right and mode == "logprob":
                right = token_meaning(max(reply["top"], key=itemgetter(1))[0]) == float(number)
            if right:
                break
        else:
            by = ", withheld by a filter" if reply.get("finish") == FILTERED else ""
            return f"asked for {number}, it said {said!r}{by}"
    return None


def _unfit(client: Client, error: NoReplyError) -> UserError:
    """Why no judging can start."""
    what = "the judge's endpoint does not answer"
    if isinstance(error, ThoughtError):
        what = "the judge thinks before it answers, and is cut"
    elif error.status == "refused":
        what = "the judge's endpoint refuses the judge's requests"
    hint = f"{error.hint}; check judging.base_url and judging.model"
    return UserError(what, where=client.here, found=error, hint=hint)
