"""A double of an OpenAI-compatible endpoint that injects faults and counts requests.

What it answers depends on the prompt alone, and which faults come first on the prompt and the
number of the attempt, so two runs of any order and speed must end with the same judgements.
"""

import asyncio
import hashlib
import json
import math
import socket
import struct
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

FAULTS = ("429", "500", "hang", "reset", "truncated", "cut", "no_logprobs", "trickle", "empty")
KEY = "sk-canary-5f2c9a7e1b"


@dataclass
class Double:
    """Settings, then counters; use as a context manager.

    Attributes:
        fault_share: probability that an attempt meets one of `faults`.
        logprobs: whether log-probabilities are returned; None = asking for them is an error.
        split_digits: whether the tokeniser splits numbers.
        delay_s: before every answer.
        key: the only one that is accepted; None = any.
        always: status that every chat request gets, with `said` as the message.
        attempts: chat requests by prompt. in_flight, most_in_flight: at the same time.
    """

    fault_share: float = 0.0
    faults: tuple[str, ...] = FAULTS
    logprobs: bool | None = True
    split_digits: bool = False
    delay_s: float = 0.0
    key: str | None = field(default=None, repr=False)
    always: int | None = None
    said: str = "no"
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    attempts: Counter[str] = field(default_factory=Counter)
    injected: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    most_in_flight: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def judged(self) -> Counter[str]:
        """Attempts by prompt, without those of the start-up probe."""
        return Counter({p: n for p, n in self.attempts.items() if not p.startswith("Repeat")})

    def __enter__(self) -> Self:
        ready = threading.Event()

        async def main() -> None:
            self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
            application = web.Application(client_max_size=2**30)
            application.router.add_route("*", "/{path:.*}", self._serve)
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            self.port = runner.addresses[0][1]
            ready.set()
            await self._stopped.wait()
            await runner.cleanup()

        self._thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
        self._thread.start()
        ready.wait()
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body, given = await request.read(), request.headers.get("authorization")
        if self.key is not None and given != f"Bearer {self.key}":
            said = f"Incorrect API key provided: {given}"
            return answer(401, {"error": {"message": said}})
        if request.path != "/v1/chat/completions":
            return answer(*self.other(request.method, request.path, body))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._chat(request, json.loads(body))
        finally:
            self.in_flight -= 1

    def other(self, method: str, path: str, body: bytes) -> tuple[Any, ...]:
        """Anything but a chat completion: what `answer` takes."""
        return 404, {"error": {"message": f"no {method} {path}"}}

    async def _chat(self, connection: web.Request, request: dict[str, Any]) -> web.StreamResponse:
        prompt = request["messages"][0]["content"] + f"#{request.get('seed', '')}"
        number = self.attempts[prompt]
        self.attempts[prompt] += 1
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.always is not None:
            error = {"message": self.said, "code": self.code}
            return answer(self.always, {"error": error}, self.headers)
        if self.logprobs is None and "logprobs" in request:
            return answer(400, {"error": {"message": "logprobs: unsupported"}})
        reply = self.reply(request)
        chance = fraction(prompt, "fault", number)
        if chance >= self.fault_share:
            return answer(200, reply)
        fault = self.faults[int(chance / self.fault_share * len(self.faults))]
        self.injected[fault] += 1
        return await self._fault(connection, fault, reply)

    async def _fault(self, request: web.Request, fault: str, reply: Any) -> web.StreamResponse:
        text = json.dumps(reply).encode()
        answers: dict[str, tuple[Any, ...]] = {
            "429": (429, {"error": {"message": "slow down"}}, {"Retry-After": "0.02"}),
            "500": (500, {"error": {"message": "oops"}}),
            "no_logprobs": (200, reply | {"choices": [reply["choices"][0] | {"logprobs": None}]}),
            "empty": (200, {"choices": []}),
            "truncated": (200, text[: len(text) // 2]),
        }
        if fault in answers:
            return answer(*answers[fault])
        if fault == "hang":
            await asyncio.sleep(3600)
        response, transport = web.StreamResponse(), request.transport
        assert transport is not None
        if fault == "reset":
            linger = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, linger
            )
            transport.abort()
            return response
        response.content_length = len(text)
        await response.prepare(request)
        if fault == "cut":
            await response.write(text[: len(text) // 2])
            transport.close()
            return response
        for byte in text:  # trickle
            await response.write(bytes([byte]))
            await asyncio.sleep(0.05)
        return response

    def reply(self, request: dict[str, Any]) -> dict[str, Any]:
        """The whole chat completion that a request deserves."""
        prompt = request["messages"][0]["content"]
        probed = prompt.partition("Repeat this number and write nothing else: ")[2]
        top = [(probed, 0.9)] if probed else truth(prompt)
        declined = top[0][0] == "(declines)"
        text = top[0][0] if self.logprobs else "Score: " + top[0][0]
        if self.split_digits:
            top = [(token[:1] if token.isdigit() else token, p) for token, p in top]
        said = {"content": None, "refusal": "I won't"} if declined else {"content": text}
        entries = [{"token": token, "logprob": math.log(p)} for token, p in top]
        logprobs = {"content": [entries[0] | {"top_logprobs": entries}]}
        choice = {
            "message": {"role": "assistant"} | said,
            "finish_reason": "stop",
            "logprobs": logprobs if self.logprobs and not declined else None,
        }
        return {
            "model": request["model"] + "-2025-01-01",
            "system_fingerprint": "fp",
            "choices": [choice],
            "usage": {"prompt_tokens": 200, "completion_tokens": 1, "total_tokens": 201},
        }


def truth(prompt: str) -> list[tuple[str, float]]:
    """Tokens and probabilities for a prompt: three in four a number, else a word or an oddity."""
    kind = fraction(prompt, "kind")
    if kind < 0.05:
        return [("REF", 0.9), ("CODE", 0.05)]
    if kind < 0.10:
        return [("CODE", 0.8), ("10", 0.1)]
    if kind < 0.15:
        return [("850", 0.7), ("101", 0.2)]
    if kind < 0.20:
        return [("The", 0.8), ("50", 0.1)]
    if kind < 0.25:
        return [("(declines)", 1.0)]
    number = int(fraction(prompt, "number") * 101)
    return [(str(number), 0.6), (f" {number}", 0.2), (str(100 - number), 0.1), ("I", 0.05)]


def fraction(*parts: object) -> float:
    """A number in [0, 1) that looks random and depends on `parts` only."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48


def answer(status: int, body: Any, headers: Mapping[str, str] | None = None) -> web.Response:
    """JSON, or bytes as they are."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return web.Response(status=status, body=data, headers=headers, content_type="application/json")
