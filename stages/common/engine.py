"""`run.engine: ray`: the batches of a work plan spread over workers, one resident model each.

Batches are fixed by the plan and every answer has its own random stream, so results do not depend
on which worker did what. Only the driver writes the journal; a lost worker costs one batch.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from stages.common.errors import UserError
from stages.common.sections import Run

TRIES = 3  # of one batch, when workers die over it


class _Worker:
    """Holds what `make` made (a function with its model) and applies it to batches."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]], folder: str) -> None:
        os.chdir(folder)  # the repository, on a file system that all nodes share
        self._make = make
        self._work: Callable[[Any], Any] | None = None

    def do(self, batch: Any) -> Any:
        if self._work is None:
            self._work = self._make()
        return self._work(batch)


def over_ray(
    run: Run,
    make: Callable[[], Callable[[Any], Any]],
    batches: Sequence[Any],
    shares: dict[int, int] | None = None,
) -> Iterator[tuple[int, Any]]:
    """(index, result) of each batch as it is finished.

    Args:
        run: address of the cluster, number of workers, GPUs or threads of each.
        make: picklable; makes the work function inside a worker, once.
        shares: filled with the number of batches that each worker did.
    Raises:
        UserError: Ray is not installed or not reachable; one batch kills every worker.
    """
    if not batches:
        return
    try:
        import ray
    except ImportError:
        raise UserError(
            "Ray is not installed", where="params.yaml: run.engine", found="ray",
            hint="pip install 'em-geometry[ray]', or run.engine: local",
        ) from None  # fmt: skip
    if not ray.is_initialized():
        # A cluster of our own has exactly what the run asks for.
        own = {} if run.address else {"num_cpus": run.workers * run.threads}
        try:
            ray.init(address=run.address, log_to_driver=False, **own)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                "no Ray cluster can be reached", where="params.yaml: run.address",
                found=f"{run.address}: {str(error)[:200]}", hint="ray start, or address: null",
            ) from None  # fmt: skip
    actor = ray.remote(num_cpus=run.threads, num_gpus=run.gpus, max_restarts=-1)(_Worker)
    workers = [actor.remote(make, str(Path.cwd())) for _ in range(min(run.workers, len(batches)))]
    todo, tries = deque(range(len(batches))), [0] * len(batches)
    busy: dict[Any, tuple[int, int]] = {}
    idle = deque(range(len(workers)))
    try:
        while todo or busy:
            while todo and idle:
                who, index = idle.popleft(), todo.popleft()
                tries[index] += 1
                busy[workers[who].do.remote(batches[index])] = (who, index)
            (ready,), _ = ray.wait(list(busy), num_returns=1)
            who, index = busy.pop(ready)
            try:
                result = ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError:  # the worker died; Ray starts it again
                if tries[index] == TRIES:
                    raise UserError(
                        "a batch ends every worker that takes it", found=index
                    ) from None
                todo.appendleft(index)
            else:
                if shares is not None:
                    shares[who] = shares.get(who, 0) + 1
                yield index, result
            idle.append(who)
    finally:
        for worker in workers:
            ray.kill(worker)
