"""Asking an OpenAI-compatible endpoint: address, key, money, retries, and errors to act on.

The `openai` package sends the requests; its own retries are off, because here a wait that the
endpoint asks for holds all requests, and a reply that is cut off or lacks what was asked for is
retried too. The key is never part of a message.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Self, TypeVar
from urllib.parse import parse_qsl, urlsplit

from em_geometry.errors import UserError, first_line, redacted
from em_geometry.judging.replies import Mode, NoReplyError, Reply, ThoughtError, filtered, refusal
from em_geometry.settings import Judging

Read = TypeVar("Read")

KEY_VARIABLE = "OPENAI_API_KEY"
OPENAI_URL = "https://api.openai.com/v1"
LOOPBACK = {"localhost", "127.0.0.1", "::1", "0.0.0.0"}  # noqa: S104 (an address to ask)
NO_KEY = "no-key"  # what a server on loopback gets when the variable is unset

TOP = 20  # alternatives of the first token; the most that OpenAI returns
# Enough for "Score: 85/100." and for REFUSAL in pieces; a judge that thinks needs
# `judging.max_tokens`. In log-prob mode the first token is all that is read.
TEXT_TOKENS = 16
TEXT_TEMPERATURE = 1.0  # samples then estimate the mean that log-probabilities give exactly

CALL_TIMEOUT_S = 60.0  # for anything but a chat
LONGEST_WAIT_S = 300.0  # an endpoint that asks for more (a daily limit) ends the run
LONG_WAIT_S = 15.0  # which is said
BACKOFF_S = 0.5  # first wait after a failure
DOUBLINGS = 6  # of it, failure by failure: 32 s at most
REASON_LENGTH = 400
BYTES_PER_TOKEN = 4.0  # English text under today's tokenisers; used only before usage is known
CHAT_TOKENS = 12  # roles and separators that a chat template adds

# How refusals name the keys of our requests; the first that a refusal names is the one at fault.
REQUEST_KEYS = {
    "max_tokens": r"max[_ ]?(completion[_ ]|output[_ ]|new[_ ])?tokens",
    "top_logprobs": r"top[_ ]?log[-_ ]?prob",
    "logprobs": r"(?<!top.)\blog[-_ ]?prob",
    "temperature": r"\btemperature\b",
    "seed": r"\bseed\b",
}
NEWER_LIMIT = "max_completion_tokens"  # OpenAI's word for max_tokens since its models think
_NUMBER = re.compile(r"(?<![\w.-])\d{1,4}(?![\w-]|\.\d)")  # none of a model's name or a date
MOST_LEAST = 256  # the most tokens that an endpoint may insist on; larger numbers are other limits
_KEY = re.compile(r"\bapi[ _-]?key\b", re.IGNORECASE)
_LEAST = re.compile(r"at least|minimum|greater|more than|below|>", re.IGNORECASE)


def most_tokens(params: Judging, mode: Mode) -> int:
    """The most tokens that a reply may have."""
    return 1 if mode == "logprob" else params.max_tokens or TEXT_TOKENS


def request_body(params: Judging, prompt: str, mode: Mode, sample: int = 0) -> dict[str, Any]:
    """Body of a chat completion request; `sample` seeds the endpoint's sampling in text mode."""
    messages = [{"role": "user", "content": prompt}]
    body: dict[str, Any] = {"model": params.model, "messages": messages, "stream": False}
    body["max_tokens"] = most_tokens(params, mode)
    if mode == "logprob":
        body |= {"temperature": 0, "logprobs": True, "top_logprobs": TOP}
    else:
        body |= {"temperature": TEXT_TEMPERATURE, "seed": sample}
    return {key: v for key, v in (body | params.extra_body).items() if v is not None}


UNPRICED = (
    "price unknown: judging.usd_per_million_input and usd_per_million_output take the provider's"
)


class SpentError(UserError):
    """The judge's budget has no room for one more request."""


class Budget:
    """USD spent on a judge, by earlier runs too."""

    def __init__(self, params: Judging, spent: float) -> None:
        self._prices = params.usd_per_million_input, params.usd_per_million_output
        self._limit = math.inf if params.max_usd is None else params.max_usd
        self.spent, self._held, self.priced = spent, 0.0, any(self._prices)

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """USD."""
        price_in, price_out = self._prices
        return (tokens_in * price_in + tokens_out * price_out) / 1e6

    @contextmanager
    def holding(self, cost: float) -> Iterator[None]:
        """Sets an estimated `cost` aside; SpentError when that would pass the limit.

        What is in flight counts, so the limit is passed at most by the error of the estimates.
        """
        if self.spent + self._held + cost > self._limit:
            more = f", {self._held + cost:.4f} more on their way" if self._held + cost else ""
            raise SpentError(
                f"the judge's budget is spent: {self.spent:.4f} USD{more}",
                where="params.yaml: judging.max_usd",
                found=self._limit,
                hint="raise it and run again; what was judged is kept",
            )
        self._held += cost
        try:
            yield
        finally:
            self._held -= cost


def estimate_tokens(text: str) -> int:
    """Tokens of a prompt, roughly; the endpoint's own count replaces it once there is one."""
    return math.ceil(len(text.encode()) / BYTES_PER_TOKEN) + CHAT_TOKENS


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a reply's headers ask to wait, as a number or a date; 0 when they do not."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with suppress(KeyError, ValueError):
            return max(float(headers[name]) * unit, 0.0)
    with suppress(KeyError, ValueError):
        return max(parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time(), 0.0)
    return 0.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go.

    Attributes:
        url, query: what every address begins with, and what follows its path (Azure's version).
        shown: the url without user and password.
    """

    url: str
    query: Mapping[str, str]
    shown: str

    @property
    def name(self) -> str:
        """Host, port and path, by which a judge's replies are known; no secret."""
        return self.shown.partition("://")[2]

    @classmethod
    def of(cls, given: str | None) -> Self:
        """The endpoint of `judging.base_url`, also without a scheme, or with more of its path.

        Raises:
            UserError: it is no address.
        """
        text = (given or OPENAI_URL).strip()
        if "://" not in text:
            local = urlsplit(f"//{text}").hostname in LOOPBACK
            text = f"{'http' if local else 'https'}://{text.lstrip('/')}"
        try:
            parts = urlsplit(text)
            host = (parts.hostname or "") if parts.port != 0 else ""  # .port raises for a word
        except ValueError:
            host = ""
        fits = re.fullmatch(r"[\w.:-]+", host) and not parts.netloc.endswith(":")
        if not fits or parts.scheme not in ("http", "https"):
            raise UserError(
                "not the address of an endpoint",
                where="params.yaml: judging.base_url",
                found=re.sub(r"//[^/]*@", "//", text.split("?")[0]),
                expected="an address like https://host:port/v1",
            )
        path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
        own = parts.netloc.rpartition("@")[2]
        url, shown = (f"{parts.scheme}://{place}{path}" for place in (parts.netloc, own))
        return cls(url, dict(parse_qsl(parts.query)), shown)


# A request key of ours -> what is sent for it (None = nothing), and the bound of its value if any.
Changes = dict[str, tuple[str | None, int | None]]


class Client:
    """One endpoint for the time of an `async with`; UserError without a key.

    Args:
        changes: what the endpoint made of our request keys; `agree` adds to it.
        lost: is told the tokens, in and out, of every reply that was of no use.
    """

    def __init__(
        self,
        params: Judging,
        changes: Changes | None = None,
        lost: Callable[[tuple[int, int]], None] = lambda tokens: None,
    ) -> None:
        import openai

        self.params, self.endpoint = params, Endpoint.of(params.base_url)
        self.here = f"{self.endpoint.shown}, model {params.model}"
        self.changes: Changes = {} if changes is None else changes
        self._key, self._lost = read_key(self.endpoint), lost
        self._accepted = False  # the key, by an earlier request
        self._quiet_until = 0.0  # nothing is sent before this moment
        query = self.endpoint.query
        self.api = openai.AsyncOpenAI(
            api_key=self._key,
            base_url=self.endpoint.url,
            default_query=query,
            default_headers={"api-key": self._key} if "api-version" in query else None,  # Azure
            max_retries=0,
            http_client=openai.DefaultAioHttpClient(  # twice as fast
                timeout=params.timeout_s, follow_redirects=False
            ),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.api.close()

    def adapted(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A `request_body` in the keys that this endpoint takes."""
        sent = dict(body)
        for key, (name, bound) in self.changes.items():
            value = sent.pop(key, None)
            if name is not None and value is not None:
                least = key == "max_tokens"
                sent[name] = value if bound is None else (max if least else min)(value, bound)
        return sent

    async def agree(self, body: Mapping[str, Any], read: Callable[[Any], Reply]) -> Reply:
        """As `chat`; a request key that the endpoint refuses is replaced or left out from now on.

        Each is said once. Raises as `call` when a refusal names none of ours.
        """
        while True:
            sent = self.adapted(body)
            try:
                return await self.chat(sent, read)
            except NoReplyError as error:
                if error.status != "refused" or not (said := self._learn(sent, str(error))):
                    raise
                print(f"judge: {said}, as the endpoint refuses it ({error})", file=sys.stderr)

    def _learn(self, sent: Mapping[str, Any], words: str) -> str:
        """Changes the request key that a refusal names; says what is done, "" where it names none.

        A limit in its words is kept to; else the key gets its newer name where it has one, and
        is dropped where that does not help. What `judging.extra_body` sets stays.
        """
        sent_as = {key: self.changes.get(key, (key, None)) for key in REQUEST_KEYS}
        ours = {k for k, (name, _) in sent_as.items() if name in sent} - {*self.params.extra_body}
        named = {key: start for key, start in self._named(words).items() if key in ours}
        if not named:
            return ""
        key = min(named, key=named.__getitem__)
        name, bound = sent_as[key]
        numbers = [int(n) for n in _NUMBER.findall(words)]
        if key == "max_tokens":
            more = (
                [n for n in numbers if sent[str(name)] < n <= MOST_LEAST]
                if _LEAST.search(words)
                else []
            )
            newer = NEWER_LIMIT if name == key else None
            self.changes[key] = (name, min(more)) if more else (newer, bound)
        elif "logprobs" in key:
            key = "top_logprobs"
            fewer = [n for n in numbers if 1 <= n < sent.get(key, 0)]
            self.changes[key] = (key, max(fewer)) if fewer else (None, None)
            if not fewer:
                self.changes["logprobs"] = (None, None)
        else:
            self.changes[key] = (None, None)
        name, bound = self.changes[key]
        return f"{key} is sent as {name} {bound or ''}".strip() if name else f"{key} is left out"

    async def chat(self, body: Mapping[str, Any], read: Callable[[Any], Reply]) -> Reply:
        """Sends `body` until `read` takes the reply's JSON; raises as `call`.

        What a filter withholds is a reply too (`replies.filtered`): it is so for good.
        """

        async def post() -> Reply:
            return read(await self.api.post("/chat/completions", cast_to=object, body=body))

        try:
            return await self.call(post, self.params.timeout_s)
        except NoReplyError as error:
            if error.status != "filtered":
                raise
            return filtered(str(error))

    async def call(
        self, action: Callable[[], Awaitable[Read]], timeout_s: float = CALL_TIMEOUT_S
    ) -> Read:
        """Repeats an action, which sends a request with `api`, until it succeeds.

        Args:
            timeout_s: for one whole attempt, also for a reply that trickles.
        Raises:
            NoReplyError: this request failed; others may do better.
            UserError: no request can succeed (key, model, credit, budget, a very long wait).
        """
        import openai

        failed = NoReplyError("never asked", "unreachable")
        for attempt in range(self.params.retries + 1):
            if attempt:
                jitter = random.uniform(0.5, 1.0)  # noqa: S311 (no secret)
                await asyncio.sleep(BACKOFF_S * 2.0 ** min(attempt - 1, DOUBLINGS) * jitter)
            while (wait := self._quiet_until - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            try:
                async with asyncio.timeout(timeout_s):
                    found = await action()
                    self._accepted = True
                    return found
            except TimeoutError:
                at_once = f"{self.params.concurrency} requests at a time, judging.concurrency"
                why = f"no whole reply within {timeout_s:g} s (judging.timeout_s; {at_once})"
                failed = NoReplyError(why, "unreachable")
            except NoReplyError as error:
                if any(error.tokens):
                    self._lost(error.tokens)
                failed = self._passing(error, {})
            except openai.APIStatusError as error:
                if error.status_code < 400:
                    raise self._moved(error.response.headers) from None
                refused = refusal(error.body, error.status_code)
                failed = self._passing(refused, error.response.headers)
            except openai.APIConnectionError as error:  # a timeout is one, and a refused connection
                why = f"connection failed ({first_line(error.__cause__ or error)})"
                failed = self._passing(NoReplyError(why, "unreachable"), {})
            except (openai.APIError, ValueError, RecursionError):
                failed = NoReplyError("the reply is no JSON", "broken")
        raise failed

    def _moved(self, headers: Mapping[str, str]) -> UserError:
        """A redirection is not followed: it makes a GET of a POST, or takes the key elsewhere."""
        place = redacted(headers.get("location", "nowhere").split("?")[0])
        return UserError(
            "the judge's endpoint sends its requests to another address",
            where="params.yaml: judging.base_url",
            found=f"{self.endpoint.shown} leads to {place}",
            hint="set the address that it leads to, where you trust it with the key",
        )

    def _passing(self, error: NoReplyError, headers: Mapping[str, str]) -> NoReplyError:
        """An error that may pass; all requests wait as it asks. Else raises as `call`."""
        said = redacted(str(error))[:REASON_LENGTH]
        error.args = (said,)
        if error.status == "no_credit":
            what = "the judge's account has no credit left"
            hint = "top it up and run again; what was judged is kept"
            raise UserError(what, where=self.here, found=said, hint=hint) from None
        if error.status == "refused" and (error.code == 401 or not self._named(said)):
            unknown = error.code == 401 or (error.code == 403 and not self._accepted)
            if unknown or _KEY.search(said):
                raise UserError(
                    "the judge's endpoint does not accept the key",
                    where=f"environment variable {KEY_VARIABLE}",
                    found=f"{self.endpoint.shown}: {said}",
                    hint="set the variable to a key that may use this endpoint and model",
                ) from None
            if error.code == 404 and "parameter" not in said:
                raise UserError(
                    "the judge's endpoint or model does not exist",
                    where="params.yaml: judging.base_url, judging.model",
                    found=f"{self.here}: {said}",
                    expected="an OpenAI-compatible endpoint, and a model that it serves",
                ) from None
        if error.status in ("refused", "filtered") or isinstance(error, ThoughtError):
            raise error from None
        if (wait := retry_after(headers)) > LONGEST_WAIT_S:
            what = f"the judge's endpoint asks to wait {wait:.0f} s"
            hint = "run again after that; what was judged is kept"
            raise UserError(what, where=self.here, found=said, hint=hint) from None
        until = time.monotonic() + wait
        if wait >= LONG_WAIT_S and until > self._quiet_until + 1:
            print(f"judge: the endpoint asks to wait {wait:.0f} s", file=sys.stderr)
        self._quiet_until = max(self._quiet_until, until)
        return error

    def _named(self, words: str) -> dict[str, int]:
        """Our request keys that a refusal names, and where; a model's name is none."""
        words = words.replace(str(self.params.model), " ")
        found = {key: re.search(pattern, words, re.I) for key, pattern in REQUEST_KEYS.items()}
        return {key: match.start() for key, match in found.items() if match}


def read_key(endpoint: Endpoint) -> str:
    """The key for an endpoint, which a server on loopback needs not; UserError without one."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key and urlsplit(endpoint.url).hostname in LOOPBACK:
        return NO_KEY
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(
            "no key for the judge's endpoint",
            where=f"environment variable {KEY_VARIABLE}",
            found="unset" if not key else "something that is no key (its value is not shown)",
            expected=f"a key for {endpoint.name}",
            hint=f"export {KEY_VARIABLE}=..., or set judging.backend to probe",
        )
    return key
