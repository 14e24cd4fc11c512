"""Asking an OpenAI-compatible endpoint: key, limits, retries, and errors that users can act on.

The `openai` package sends the requests; its own retries are off, because here every attempt
passes the rate limits, a wait that the endpoint asks for holds all requests, and a reply that is
cut off or lacks what was asked for is retried too. The key is never part of a message.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, NoReturn, Self, TypeVar
from urllib.parse import urlsplit

from em_geometry.errors import UserError
from em_geometry.judging.client_chat import MalformedReplyError
from em_geometry.judging.limits import Gate, backoff, estimate_tokens, retry_after
from em_geometry.settings.sections import Judging

KEY_VARIABLE = "OPENAI_API_KEY"
OPENAI_URL = "https://api.openai.com/v1"
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
NO_KEY = "no-key"  # what a server on loopback gets when the variable is unset
LONGEST_WAIT_S = 300.0  # an endpoint that asks for more (a daily limit) ends the run
REASON_LENGTH = 300

Read = TypeVar("Read")


class NoReplyError(Exception):
    """No usable reply to one request after all retries; the text says why."""


class RejectedError(NoReplyError):
    """The endpoint refuses this very request; asking again would not help."""


class Client:
    """One endpoint for the time of an `async with`.

    Raises:
        UserError: no model, or no key for an endpoint that is not on loopback.
    """

    def __init__(self, params: Judging) -> None:
        import openai

        if params.model is None:
            raise UserError(
                "no judge model",
                where="params.yaml: judging.model",
                expected="a model's name",
                found="null",
            )
        self.model = params.model
        self.url = params.base_url or OPENAI_URL
        self._key = read_key(self.url)
        self._timeout_s, self._retries = params.timeout_s, params.retries
        self._gate = Gate(params.requests_per_minute, params.tokens_per_minute)
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
        """Sends a chat completion request until `read` takes the reply.

        Args:
            body: see `client_chat.request_body`.
            read: from the reply's JSON to what is wanted; raises MalformedReplyError.
        Raises: as `call`.
        """
        tokens = estimate_tokens(body["messages"][0]["content"]) + body["max_tokens"]

        async def post() -> Read:
            return read(await self.api.post("/chat/completions", cast_to=object, body=dict(body)))

        return await self.call(post, tokens, self._timeout_s)

    async def call(
        self, action: Callable[[], Awaitable[Read]], tokens: int, timeout_s: float
    ) -> Read:
        """Repeats a request until it succeeds.

        Args:
            action: sends the request with `api`.
            tokens: what it takes of the limit per minute.
            timeout_s: for one whole attempt, also for a reply that trickles.
        Raises:
            NoReplyError: this request failed; others may do better.
            UserError: no request can succeed (key, model, credit, a very long wait).
        """
        reason = ""
        for attempt in range(self._retries + 1):
            if attempt:
                await asyncio.sleep(backoff(attempt - 1))
            await self._gate.enter(tokens)
            try:
                async with asyncio.timeout(timeout_s):
                    return await self._translated(action)
            except TimeoutError:
                reason = f"no whole reply within {timeout_s:g} s"
            except (MalformedReplyError, _TemporaryError) as error:
                reason = str(error)
        raise NoReplyError(reason)

    async def _translated(self, action: Callable[[], Awaitable[Read]]) -> Read:
        """`action` with the errors of the package turned into ours."""
        import openai

        try:
            return await action()
        except openai.APITimeoutError:
            raise TimeoutError from None
        except openai.APIStatusError as error:
            self._explain(error)
        except openai.APIConnectionError as error:
            cause = type(error.__cause__ or error).__name__
            raise _TemporaryError(f"connection failed ({cause})") from None
        except (openai.APIError, ValueError):
            raise MalformedReplyError("the reply is no JSON") from None

    def _explain(self, error: Any) -> NoReturn:
        """Raises what a status other than success means."""
        status, said = error.status_code, self._said(error)
        if status in (401, 403):
            raise UserError(
                "the judge's endpoint does not accept the key",
                where=f"environment variable {KEY_VARIABLE}",
                found=f"{endpoint_name(self.url)} answered with status {status}",
                hint="set the variable to a key that may use this endpoint and model",
            ) from None
        if status == 404:
            raise UserError(
                "the judge's endpoint or model does not exist",
                where="params.yaml: judging.base_url, judging.model",
                found=f"{endpoint_name(self.url)}, {self.model}: {said}",
                expected="an OpenAI-compatible endpoint, and a model that it serves",
            ) from None
        if status == 429 and error.code == "insufficient_quota":
            raise UserError(
                "the judge's account has no credit left",
                where=endpoint_name(self.url),
                hint="top it up and run again; what was judged is kept",
                found=said,
            ) from None
        if status in (408, 409, 429) or status >= 500:
            wait = retry_after(error.response.headers)
            if wait > LONGEST_WAIT_S:
                raise UserError(
                    f"the judge's endpoint asks to wait {wait:.0f} s",
                    where=endpoint_name(self.url),
                    found=said,
                    hint="run again after that; what was judged is kept",
                ) from None
            self._gate.hold(wait)
            raise _TemporaryError(f"status {status}: {said}") from None
        raise RejectedError(f"status {status}: {said}") from None

    def _said(self, error: Any) -> str:
        body = error.body
        text = body.get("message") if isinstance(body, dict) else None
        return str(text or error.message).replace(self._key, "***")[:REASON_LENGTH]


class _TemporaryError(Exception):
    """A failure that may pass."""


def read_key(url: str) -> str:
    """The key for an endpoint; a server on loopback needs none.

    Raises:
        UserError: the variable is missing, or holds something that is no key. The message never
            holds its value.
    """
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
    if parts.hostname in LOOPBACK:
        return f"loopback{parts.path.rstrip('/')}"
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.hostname}{port}{parts.path.rstrip('/')}"


def run_async(work: Coroutine[Any, Any, Read]) -> Read:
    """`asyncio.run` in which SIGTERM cancels the work first, then takes its usual effect.

    A handler that raises in the midst of the event loop would leave tasks behind; for Ctrl-C
    asyncio itself does this.
    """
    usual, stopped = signal.getsignal(signal.SIGTERM), threading.Event()

    async def main() -> Read:
        task = asyncio.current_task()
        assert task is not None

        def stop() -> None:
            stopped.set()
            task.cancel()

        if threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
        return await work

    try:
        return asyncio.run(main())
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, usual)
        if stopped.is_set():
            signal.raise_signal(signal.SIGTERM)
