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
from dataclasses import dataclass, field
from typing import Any, Self

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
            server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await self._stopped.wait()
            server.close()

        self._thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
        self._thread.start()
        ready.wait()
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; False when the connection is to be closed."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:])}
        body = await reader.readexactly(int(fields.get("content-length", 0)))
        method, path, _ = head[0].split(" ")
        if self.key is not None and fields.get("authorization") != f"Bearer {self.key}":
            said = f"Incorrect API key provided: {fields.get('authorization')}"
            return await self._send(writer, 401, {"error": {"message": said}})
        if path != "/v1/chat/completions":
            return await self._send(writer, *self.other(method, path, body))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._chat(writer, json.loads(body))
        finally:
            self.in_flight -= 1

    def other(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Anything but a chat completion."""
        return 404, {"error": {"message": f"no {method} {path}"}}

    async def _chat(self, writer: asyncio.StreamWriter, request: dict[str, Any]) -> bool:
        prompt = request["messages"][0]["content"] + f"#{request.get('seed', '')}"
        number = self.attempts[prompt]
        self.attempts[prompt] += 1
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.always is not None:
            error = {"message": self.said, "code": self.code}
            return await self._send(writer, self.always, {"error": error}, self.headers)
        if self.logprobs is None and "logprobs" in request:
            return await self._send(writer, 400, {"error": {"message": "logprobs: unsupported"}})
        reply = self.reply(request)
        chance = fraction(prompt, "fault", number)
        if chance >= self.fault_share:
            return await self._send(writer, 200, reply)
        fault = self.faults[int(chance / self.fault_share * len(self.faults))]
        self.injected[fault] += 1
        return await self._fault(writer, fault, reply)

    async def _fault(self, writer: asyncio.StreamWriter, fault: str, reply: Any) -> bool:
        text = json.dumps(reply).encode()
        answers: dict[str, tuple[Any, ...]] = {
            "429": (429, {"error": {"message": "slow down"}}, {"Retry-After": "0.02"}),
            "500": (500, {"error": {"message": "oops"}}),
            "no_logprobs": (200, reply | {"choices": [reply["choices"][0] | {"logprobs": None}]}),
            "empty": (200, {"choices": []}),
            "truncated": (200, text[: len(text) // 2]),
        }
        if fault in answers:
            return await self._send(writer, *answers[fault])
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "reset":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return False
        writer.write(_head(200, len(text)))  # cut | trickle
        if fault == "cut":
            writer.write(text[: len(text) // 2])
            await writer.drain()
            return False
        for byte in text:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.05)
        return True

    async def _send(
        self,
        writer: asyncio.StreamWriter,
        status: int,
        body: Any,
        headers: dict[str, str] | None = None,
    ) -> bool:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        writer.write(_head(status, len(data), headers) + data)
        await writer.drain()
        return True

    def reply(self, request: dict[str, Any]) -> dict[str, Any]:
        """The whole chat completion that a request deserves."""
        prompt = request["messages"][0]["content"]
        probed = prompt.partition("Repeat this number and write nothing else: ")[2]
        top = [(probed, 0.9)] if probed else truth(prompt)
        if self.split_digits:
            top = [(token[:1] if token.isdigit() else token, p) for token, p in top]
        declined = top[0][0] == "(declines)"
        text = top[0][0] if self.logprobs else "Score: " + top[0][0]
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


def _head(status: int, length: int, headers: dict[str, str] | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
