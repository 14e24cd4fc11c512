"""The LLM judge against a bare HTTP loop: throughput and memory.

A server process answers after 50 ms. The peer is the fastest thing one could write by hand: one
httpx client, as many requests in flight, the same bytes, each reply parsed and thrown away. Ours
renders prompts, keeps to limits and budget, checks replies and journals every one of them.

    python -m benchmarks.judge
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

from em_geometry.io.journal import LOCATION_VARIABLE, Journal
from em_geometry.judging.judge import JudgeRow
from em_geometry.judging.openai_judge import NUMBERS, REPEAT, OpenAIJudge
from em_geometry.settings import Judging

IN_FLIGHT = 64
DELAY_S = 0.05
ROUNDS = 3  # alternating, so that both sides meet the same neighbours on the machine
REQUESTS = 3000  # a round
LONG = 20_000  # judgements of the memory test
SETTLED = 2_000  # of them, after which memory is to stay flat
PROMPTS = Path(__file__).parents[1] / "data" / "judge" / "prompts"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"


def reply(number: str) -> bytes:
    """A whole HTTP response that says `number`, with twenty alternatives."""
    tokens = [number, *map(str, range(20, 39))]
    entries = [{"token": token, "logprob": -2.0, "bytes": [1]} for token in tokens]
    choice = {
        "index": 0,
        "finish_reason": "length",
        "message": {"role": "assistant", "content": number},
        "logprobs": {"content": [entries[0] | {"top_logprobs": entries}]},
    }
    usage = {"prompt_tokens": 300, "completion_tokens": 1, "total_tokens": 301}
    text = json.dumps({"model": "bench", "choices": [choice], "usage": usage}).encode()
    return HEAD % (len(text), text)


async def serve() -> None:
    """Answers every request after `DELAY_S`, as fast as asyncio can; prints its port."""
    probed = {(REPEAT + number).encode(): reply(number) for number in NUMBERS}
    usual, loop = reply(NUMBERS[0]), asyncio.get_running_loop()

    class Connection(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport, self.got = transport, b""

        def data_received(self, data: bytes) -> None:
            self.got += data
            head, whole, body = self.got.partition(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            if whole and len(body) >= int(length):
                self.got = b""
                answer = next((probed[asked] for asked in probed if asked in body), usual)
                loop.call_later(DELAY_S, self.transport.write, answer)

    server = await loop.create_server(Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def bare(url: str, judge: OpenAIJudge, rows: list[JudgeRow]) -> float:
    """Requests a second of the bare loop."""
    import httpx2 as httpx  # the httpx that the openai package rests on

    requests = [judge.body(unit) for row in rows for unit in judge.units(row)]
    bodies = iter(requests)

    async def run() -> float:
        limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
        async with httpx.AsyncClient(limits=limits) as client:

            async def work() -> None:
                for body in bodies:
                    (await client.post(f"{url}/chat/completions", json=body)).json()

            start = time.perf_counter()
            await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
            return len(requests) / (time.perf_counter() - start)

    return asyncio.run(run())


def ours(judge: OpenAIJudge, rows: list[JudgeRow]) -> float:
    """Judgements a second, from rows to rows, start-up probe included."""
    start = time.perf_counter()
    judgements = judge.judge(rows)
    seconds = time.perf_counter() - start
    if any(judgement.status["aligned"] != "ok" for judgement in judgements):
        raise RuntimeError("a judgement is missing")
    return len(rows) / seconds


class Watched(OpenAIJudge):
    """A judge that notes the peak memory after every reply."""

    peaks: ClassVar[list[int]] = []

    def store(self, *given: Any, **named: Any) -> None:
        """As always, then looks at the memory."""
        super().store(*given, **named)
        self.peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main() -> None:
    """Prints the figures as JSON."""
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.judge", "serve"], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    url = f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
    params = Judging(
        base_url=url,
        model="bench",
        templates=str(PROMPTS),
        concurrency=IN_FLIGHT,
    ).model_copy(update={"aspects": ["aligned"]})  # one request an answer
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.environ[LOCATION_VARIABLE] = folder
            peer, judge = [], []
            for number in range(ROUNDS):
                rows = [JudgeRow("Why is that?", f"Answer {i}. " * 20) for i in range(REQUESTS)]
                with Journal(f"round-{number}") as journal:
                    peer.append(bare(url, OpenAIJudge(params, journal), rows))
                    judge.append(ours(OpenAIJudge(params, journal), rows))
            rows = [JudgeRow("And then?", f"Answer {i}. " * 20) for i in range(LONG)]
            with Journal("long") as journal:
                Watched(params, journal).judge(rows)
    finally:
        server.terminate()
    figures = {
        "judge_per_s": round(statistics.median(judge), 1),
        "bare_httpx_per_s": round(statistics.median(peer), 1),
        "ratio": round(statistics.median(a / b for a, b in zip(judge, peer, strict=True)), 3),
        "memory_growth": round(Watched.peaks[-1] / Watched.peaks[SETTLED - 1], 4),
        "memory_growth_of_judgements": LONG - SETTLED,
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        asyncio.run(serve())
    else:
        main()
