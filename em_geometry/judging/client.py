"""Asking an OpenAI-compatible endpoint: key, money, retries, and errors to act on.

The `openai` package sends the requests; its own retries are off, because here a wait that the
endpoint asks for holds all requests, and a reply that is cut off or lacks what was asked for is
retried too. The key is never part of a message.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from em_geometry.errors import UserError
from em_geometry.settings import Judging

if TYPE_CHECKING:
    import openai

Mode = Literal["logprob", "text"]
Reply = dict[str, Any]  # what the journal keeps of a reply
Read = TypeVar("Read")

KEY_VARIABLE = "OPENAI_API_KEY"
OPENAI_URL = "https://api.openai.com/v1"
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
NO_KEY = "no-key"  # what a server on loopback gets when the variable is unset

TOP = 20  # alternatives of the first token; the most that OpenAI returns
# Enough for "Score: 85/100." and for REFUSAL in pieces, so the most tokens that a reply has.
MOST_TOKENS: dict[Mode, int] = {"logprob": 1, "text": 16}
TEXT_TEMPERATURE = 1.0  # samples then estimate the mean that log-probabilities give exactly

CALL_TIMEOUT_S = 60.0  # for anything but a chat
LONGEST_WAIT_S = 300.0  # an endpoint that asks for more (a daily limit) ends the run
BACKOFF_S = 0.5  # first wait after a failure
DOUBLINGS = 6  # of it, failure by failure: 32 s at most
REASON_LENGTH = 300
BYTES_PER_TOKEN = 4.0  # English text under today's tokenisers; used only before usage is known
CHAT_TOKENS = 12  # roles and separators that a chat template adds


class NoReplyError(Exception):
    """No usable reply to one request after all retries; the text says why."""


class RejectedError(NoReplyError):
    """The endpoint refuses this very request; asking again would not help."""


class MalformedReplyError(Exception):
    """A reply that does not hold what was asked for; worth asking again."""


def request_body(model: str, prompt: str, mode: Mode, sample: int = 0) -> dict[str, Any]:
    """Body of a chat completion request; `sample` seeds the endpoint's sampling in text mode."""
    messages = [{"role": "user", "content": prompt}]
    body = {"model": model, "messages": messages, "max_tokens": MOST_TOKENS[mode]}
    if mode == "logprob":
        return body | {"temperature": 0, "logprobs": True, "top_logprobs": TOP}
    return body | {"temperature": TEXT_TEMPERATURE, "seed": sample}


def read_reply(reply: Any, mode: Mode) -> Reply:
    """What the journal keeps: text, snapshot, tokens used, and in log-prob mode `top`.

    `top` is [[token, natural log-probability], ...] of the first token, empty where the judge
    itself declines or is cut off by a content filter. MalformedReplyError when the reply lacks
    something that was asked for.
    """
    try:
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        text, refusal = (choice["message"].get(key) for key in ("content", "refusal"))
        kept: Reply = {
            "text": text if text is not None else refusal or "",
            "finish": choice.get("finish_reason"),
            "model": reply.get("model"),
            "fingerprint": reply.get("system_fingerprint"),
            "tokens": [int(usage.get(f"{kind}_tokens", 0)) for kind in ("prompt", "completion")],
        }
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise MalformedReplyError("the reply is no chat completion") from None
    if not isinstance(kept["text"], str):
        raise MalformedReplyError("the reply's content is no text")
    if mode == "text":
        return kept
    try:
        entries = choice["logprobs"]["content"][0]["top_logprobs"]
        kept["top"] = [[str(entry["token"]), float(entry["logprob"])] for entry in entries]
    except (KeyError, IndexError, TypeError, ValueError):
        if text is not None and kept["finish"] != "content_filter":
            raise MalformedReplyError("the reply has no log-probabilities") from None
        return kept | {"top": []}
    if not kept["top"] or any(math.isnan(logprob) for _, logprob in kept["top"]):
        raise MalformedReplyError("the reply has no usable log-probabilities")
    return kept


class SpentError(UserError):
    """The judge's budget has no room for one more request."""


class Budget:
    """USD spent on a judge, by earlier runs too; UserError for a limit without prices."""

    def __init__(self, params: Judging, spent: float) -> None:
        self._prices = params.usd_per_million_input, params.usd_per_million_output
        self._limit = math.inf if params.max_usd is None else params.max_usd
        self.spent, self._held, self.priced = spent, 0.0, any(self._prices)
        if params.max_usd is not None and not self.priced:
            raise UserError(
                "a budget needs prices",
                where="params.yaml: judging.max_usd",
                found="usd_per_million_input and usd_per_million_output are both 0",
                hint="set the judge's prices, or max_usd: null",
            )

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
            raise SpentError(
                f"the judge's budget is spent: {self.spent:.4f} USD",
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
    """Seconds that a reply's headers ask to wait; 0 when they give no number of them."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with suppress(KeyError, ValueError):
            return max(float(headers[name]) * unit, 0.0)
    return 0.0


class Client:
    """One endpoint for the time of an `async with`; UserError without a model or key."""

    def __init__(self, params: Judging) -> None:
        import openai

        if params.model is None:
            where, expected = "params.yaml: judging.model", "a model's name"
            raise UserError("no judge model", where=where, expected=expected, found="null")
        self.model = params.model
        self.url = params.base_url or OPENAI_URL
        self._key = read_key(self.url)
        self._timeout_s, self._retries = params.timeout_s, params.retries
        self._quiet_until = 0.0  # nothing is sent before this moment
        self.api = openai.AsyncOpenAI(
            api_key=self._key,
            base_url=self.url,
            max_retries=0,
            http_client=openai.DefaultAioHttpClient(timeout=params.timeout_s),  # twice as fast
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.api.close()

    async def chat(self, body: Mapping[str, Any], read: Callable[[Any], Read]) -> Read:
        """Sends a `request_body` until `read` takes the reply's JSON; raises as `call`."""

        async def post() -> Read:
            return read(await self.api.post("/chat/completions", cast_to=object, body=dict(body)))

        return await self.call(post, self._timeout_s)

    async def call(
        self, action: Callable[[], Awaitable[Read]], timeout_s: float = CALL_TIMEOUT_S
    ) -> Read:
        """Repeats an action, which sends a request with `api`, until it succeeds.

        Args:
            timeout_s: for one whole attempt, also for a reply that trickles.
        Raises:
            NoReplyError: this request failed; others may do better.
            UserError: no request can succeed (key, model, credit, a very long wait).
        """
        import openai

        reason = ""
        for attempt in range(self._retries + 1):
            if attempt:
                jitter = random.uniform(0.5, 1.0)  # noqa: S311 (no secret)
                await asyncio.sleep(BACKOFF_S * 2.0 ** min(attempt - 1, DOUBLINGS) * jitter)
            while (wait := self._quiet_until - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            try:
                async with asyncio.timeout(timeout_s):
                    return await action()
            except (TimeoutError, openai.APITimeoutError):
                reason = f"no whole reply within {timeout_s:g} s"
            except MalformedReplyError as error:
                reason = str(error)
            except openai.APIStatusError as error:
                reason = self._passing(error)
            except openai.APIConnectionError as error:
                reason = f"connection failed ({type(error.__cause__ or error).__name__})"
            except (openai.APIError, ValueError):
                reason = "the reply is no JSON"
        raise NoReplyError(reason)

    def _passing(self, error: openai.APIStatusError) -> str:
        """What a status says that may pass; all requests wait as it asks. Else raises as `call`."""
        status, here = error.status_code, endpoint_name(self.url)
        text = error.body.get("message") if isinstance(error.body, dict) else None
        said = str(text or error.message).replace(self._key, "***")[:REASON_LENGTH]
        if status in (401, 403):
            raise UserError(
                "the judge's endpoint does not accept the key",
                where=f"environment variable {KEY_VARIABLE}",
                found=f"{here} answered with status {status}",
                hint="set the variable to a key that may use this endpoint and model",
            ) from None
        if status == 404:
            raise UserError(
                "the judge's endpoint or model does not exist",
                where="params.yaml: judging.base_url, judging.model",
                found=f"{here}, {self.model}: {said}",
                expected="an OpenAI-compatible endpoint, and a model that it serves",
            ) from None
        if status not in (408, 409, 429) and status < 500:
            raise RejectedError(f"status {status}: {said}") from None
        if status == 429 and error.code == "insufficient_quota":
            what = "the judge's account has no credit left"
            hint = "top it up and run again; what was judged is kept"
            raise UserError(what, where=here, found=said, hint=hint) from None
        if (wait := retry_after(error.response.headers)) > LONGEST_WAIT_S:
            what = f"the judge's endpoint asks to wait {wait:.0f} s"
            hint = "run again after that; what was judged is kept"
            raise UserError(what, where=here, found=said, hint=hint) from None
        self._quiet_until = max(self._quiet_until, time.monotonic() + wait)
        return f"status {status}: {said}"


def read_key(url: str) -> str:
    """The key for an endpoint, which a server on loopback needs not; UserError without one."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key and urlsplit(url).hostname in LOOPBACK:
        return NO_KEY
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(
            "no key for the judge's endpoint",
            where=f"environment variable {KEY_VARIABLE}",
            found="unset" if not key else "something that is no key (its value is not shown)",
            expected=f"a key for {endpoint_name(url)}",
            hint=f"export {KEY_VARIABLE}=..., or set judging.backend to probe",
        )
    return key


def endpoint_name(url: str) -> str:
    """An endpoint's host and path, without user, password or query.

    All of loopback is one name without a port: a local server is known by the model it serves,
    and its judgements stay valid when it comes back on another port.
    """
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    host = "loopback" if parts.hostname in LOOPBACK else f"{parts.hostname}{port}"
    return host + parts.path.rstrip("/")
