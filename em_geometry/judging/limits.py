"""How fast, how often and for how much a judge may be asked."""

from __future__ import annotations

import asyncio
import email.utils
import math
import random
import time
from collections.abc import Mapping

from em_geometry.errors import UserError
from em_geometry.settings.sections import Judging

BACKOFF_S = 0.5  # first wait after a failure
DOUBLINGS = 6  # of it, failure by failure: 32 s at most
BYTES_PER_TOKEN = 4.0  # English text under today's tokenisers; used only before usage is known
CHAT_TOKENS = 12  # roles and separators that a chat template adds
MILLION = 1_000_000


class Gate:
    """Lets requests through evenly, so that neither limit per minute is passed.

    Args:
        requests_per_minute, tokens_per_minute: None = no limit.
    """

    def __init__(self, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
        self._request_s = 60 / requests_per_minute if requests_per_minute else 0.0
        self._token_s = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._next = 0.0
        self._turn = asyncio.Lock()

    async def enter(self, tokens: int) -> None:
        """Waits until a request of so many tokens may be sent."""
        gap = max(self._request_s, self._token_s * tokens)
        async with self._turn:
            self._next = max(self._next, time.monotonic())
            while (wait := self._next - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            self._next += gap

    def hold(self, seconds: float) -> None:
        """Sends nothing for so long, because the endpoint asked for it."""
        self._next = max(self._next, time.monotonic() + seconds)


class Budget:
    """Money spent on a judge, and whether there is enough for one more request.

    Requests in flight count with their estimate, so the limit is passed at most by the error of
    the estimates.

    Args:
        params: prices in USD per million tokens, and `max_usd` (None = no limit).
        spent: USD spent by earlier runs on the same journal.
    Raises:
        UserError: a limit without prices.
    """

    def __init__(self, params: Judging, spent: float) -> None:
        self._input = params.usd_per_million_input / MILLION
        self._output = params.usd_per_million_output / MILLION
        self._limit = math.inf if params.max_usd is None else params.max_usd
        self.spent, self._reserved = spent, 0.0
        if params.max_usd is not None and not self.priced:
            raise UserError(
                "a budget needs prices",
                where="params.yaml: judging.max_usd",
                found="usd_per_million_input and usd_per_million_output are both 0",
                hint="set the judge's prices, or max_usd: null",
            )

    @property
    def priced(self) -> bool:
        return self._input > 0 or self._output > 0

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """USD."""
        return tokens_in * self._input + tokens_out * self._output

    def reserve(self, cost: float) -> bool:
        """Sets `cost` aside for a request; False when that would pass the limit."""
        if self.spent + self._reserved + cost > self._limit:
            return False
        self._reserved += cost
        return True

    def settle(self, reserved: float, cost: float) -> None:
        """Replaces a reservation by what the request really cost."""
        self._reserved -= reserved
        self.spent += cost

    def exhausted(self) -> UserError:
        """The end of the money, for the user."""
        return UserError(
            f"the judge's budget is spent: {self.spent:.4f} USD",
            where="params.yaml: judging.max_usd",
            found=self._limit,
            hint="raise it and run again; what was judged is kept",
        )


def estimate_tokens(text: str) -> int:
    """Tokens of a prompt, roughly; the endpoint's own count replaces it once there is one."""
    return math.ceil(len(text.encode()) / BYTES_PER_TOKEN) + CHAT_TOKENS


def backoff(attempt: int) -> float:
    """Seconds to wait after failure number `attempt` (from 0), with jitter."""
    jitter = random.uniform(0.5, 1.0)  # noqa: S311 (no secret)
    return BACKOFF_S * 2.0 ** min(attempt, DOUBLINGS) * jitter


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a reply's headers ask to wait; 0 when they ask for nothing readable."""
    try:
        if "retry-after-ms" in headers:
            return max(float(headers["retry-after-ms"]) / 1000, 0.0)
        value = headers.get("retry-after", "0")
        try:
            return max(float(value), 0.0)
        except ValueError:
            return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return 0.0
