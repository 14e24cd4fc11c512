"""`workers.engine: ray`: the batches of a work plan spread over workers, one resident model each.

Batches are fixed by the plan and every answer has its own random stream, so results do not depend
on which worker did what. Only the driver writes files and journals; a lost worker costs one batch.
"""

from __future__ import annotations

import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from em_geometry.errors import UserError
from em_geometry.io.journal import Spread
from em_geometry.settings import Workers

TRIES = 3  # of one batch, when workers die over it
WAIT = 60.0  # seconds without any result after which a missing worker is spoken of

Make = tuple[Callable[..., Callable[[Any], Any]], tuple[Any, ...]]  # makes a work function


def spread(
    workers: Workers, threads: int, make: Callable[..., Callable[[Any], Any]], *arguments: Any
) -> Spread | None:
    """What does a list of batches elsewhere; None when the run's engine is this process.

    Args:
        workers: where and how many.
        threads: CPU threads that each takes.
        make: called with `arguments` inside a worker, once; returns the work function, which
            then holds its model. All of it picklable.
    """
    if workers.engine == "local":
        return None
    return partial(cluster(workers, threads).spread, (make, arguments))


@cache
def cluster(settings: Workers, threads: int) -> Cluster:
    """The run's workers, which stay until this process ends: each imports only once."""
    return Cluster(settings, threads)


class Worker:
    """Holds one work function with its model, and applies it to batches."""

    def __init__(self, folder: str) -> None:
        os.chdir(folder)  # the repository, on a file system that all nodes share
        self._number: int | None = None
        self._work: Callable[[Any], Any] | None = None

    def ready(self) -> None:
        """Answers once the worker runs."""

    def do(self, number: int, make: Make, batch: Any) -> Any:
        if self._work is None or number != self._number:
            self._work = None  # two models may not fit
            function, arguments = make
            self._work, self._number = function(*arguments), number
        return self._work(batch)


class Cluster:
    """Workers on Ray.

    Attributes:
        shares: number of batches that each worker has done.
    Raises:
        UserError: Ray is not installed or not reachable, or this machine has too few GPUs.
    """

    def __init__(self, settings: Workers, threads: int) -> None:
        ray = _connected(settings, threads)
        self._actor = ray.remote(num_cpus=threads, num_gpus=settings.gpus)(Worker)
        self._makes: list[Make] = []  # so that a worker keeps its model from one call to the next
        self._idle: deque[Any] = deque()
        self._busy: dict[Any, Any] = {}  # worker of each task
        self.shares: Counter[Any] = Counter()
        for _ in range(settings.number):
            self._start()

    def _start(self) -> None:
        """A new worker, which gets work as soon as it answers."""
        worker = self._actor.remote(str(Path.cwd()))
        self._busy[worker.ready.remote()] = worker

    def spread(self, make: Make, batches: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """(index, result) of each batch as it is finished.

        Raises:
            UserError: one batch ends every worker; whatever a work function raises.
        """
        import ray

        todo, tries = deque(range(len(batches))), Counter[int]()
        doing: dict[Any, int] = {}  # batch of each task; not of a start, or of an earlier list
        if make not in self._makes:
            self._makes.append(make)
        number, made = self._makes.index(make), ray.put(make)
        while todo or doing:
            while todo and self._idle:
                worker, index = self._idle.popleft(), todo.popleft()
                tries[index] += 1
                task = worker.do.remote(number, made, batches[index])
                self._busy[task], doing[task] = worker, index
            ready, _ = ray.wait(list(self._busy), timeout=WAIT)
            if not ready:
                if not doing:
                    print(f"waiting for workers; {ray.available_resources()}", file=sys.stderr)
                continue
            worker, mine = self._busy.pop(ready[0]), doing.pop(ready[0], None)
            try:
                result = ray.get(ready[0])
            except ray.exceptions.RayTaskError as error:
                self._idle.append(worker)
                if mine is not None:
                    raise error.cause from None
            except ray.exceptions.RayError as error:  # the worker is gone
                if mine is None:
                    raise UserError(
                        "a Ray worker ends as it starts",
                        found=str(error)[-300:],
                        expected="this repository and its packages, at one path on every node",
                    ) from None
                if tries[mine] == TRIES:
                    raise UserError("a batch ends every worker that takes it", found=mine) from None
                todo.appendleft(mine)
                self._start()
            else:
                self._idle.append(worker)
                if mine is not None:
                    self.shares[worker] += 1
                    yield mine, result


def _connected(settings: Workers, threads: int) -> Any:
    """Ray, connected to the run's cluster, or to one of our own with what the run asks for."""
    try:
        import ray
    except ImportError:
        raise UserError(
            "Ray is not installed", where="params.yaml: workers.engine", found="ray",
            hint="pip install -e '.[ray]', or workers.engine: local",
        ) from None  # fmt: skip
    if not ray.is_initialized():
        own: dict[str, Any] = {"num_cpus": settings.number * threads, "include_dashboard": False}
        more = {} if settings.address else own
        try:
            ray.init(address=settings.address, log_to_driver=False, **more)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                "no Ray cluster can be reached", where="params.yaml: workers.address",
                found=f"{settings.address}: {str(error)[:200]}", hint="ray start, or address: null",
            ) from None  # fmt: skip
    there = ray.cluster_resources().get("GPU", 0.0)
    needed = settings.number * settings.gpus
    if not settings.address and needed > there:  # a remote cluster may grow
        raise UserError(
            "too few GPUs for the workers", where="params.yaml: workers.number, workers.gpus",
            found=f"{there:g} on this machine", expected=f"{needed:g}",
        )  # fmt: skip
    return ray
