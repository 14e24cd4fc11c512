"""Many requests at once: workers that share one queue, a budget and a reason to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from stages.common.errors import UserError
from stages.common.progress import Progress
from stages.judging.client import Client, NoReplyError, endpoint_name
from stages.judging.client_chat import Reply
from stages.judging.limits import Budget, estimate_tokens

GIVE_UP = 20  # requests in a row without a reply: the endpoint is at fault, not the requests


class Keyed(Protocol):
    """Anything with the key under which its reply is stored."""

    @property
    def key(self) -> str: ...


Item = TypeVar("Item", bound=Keyed)


class Filling(Generic[Item]):
    """One pass over requests; replies go to `store` as they arrive, memory does not grow.

    Args:
        client: the endpoint.
        budget: asked before each request.
        body: an item's request.
        read: from a reply's JSON to what is stored.
        store: takes the item, its reply, and what was reserved for it.
    """

    def __init__(
        self,
        client: Client,
        budget: Budget,
        body: Callable[[Item], dict[str, Any]],
        read: Callable[[Any], Reply],
        store: Callable[[Item, Reply, float], None],
    ) -> None:
        self._client, self._budget = client, budget
        self._body, self._read, self._store = body, read, store
        self._failures: dict[str, str] = {}
        self._in_a_row = 0  # failures since the last reply
        self._stop: UserError | None = None

    async def run(self, items: Iterable[Item], workers: int, progress: Progress) -> dict[str, str]:
        """Asks for every item; returns why there is no reply, by key.

        Raises:
            UserError: at once when no request can succeed (key, model, credit); after the
                requests in flight when the budget is spent or the endpoint is down.
        """
        queue = iter(items)
        fatal: UserError | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(self._work(queue, progress))
        except* UserError as errors:
            fatal = _first(errors)
        if fatal := fatal or self._stop:
            raise fatal
        return self._failures

    async def _work(self, queue: Iterator[Item], progress: Progress) -> None:
        while self._stop is None and (item := next(queue, None)) is not None:
            body = self._body(item)
            tokens = estimate_tokens(body["messages"][0]["content"])
            cost = self._budget.cost(tokens, body["max_tokens"])
            if not self._budget.reserve(cost):
                self._stop = self._budget.exhausted()
                return
            try:
                reply = await self._client.chat(body, self._read)
            except NoReplyError as error:
                self._budget.settle(cost, 0.0)
                self._fail(item.key, str(error))
            else:
                self._store(item, reply, cost)
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


def _first(group: BaseExceptionGroup[UserError]) -> UserError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, UserError)
    return error
