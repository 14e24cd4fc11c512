"""Running asynchronous work from synchronous code so that SIGTERM ends it in order."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def run_async(work: Coroutine[Any, Any, Result]) -> Result:
    """`asyncio.run`, in which SIGTERM first cancels the work, then takes its usual effect.

    A handler that raises in the midst of the event loop, as that of a command does, would leave
    tasks behind. Ctrl-C is treated in this way by asyncio itself.
    """
    if threading.current_thread() is not threading.main_thread():
        return asyncio.run(work)
    usual, stopped = signal.getsignal(signal.SIGTERM), False

    async def main() -> Result:
        task = asyncio.current_task()
        assert task is not None

        def stop() -> None:
            nonlocal stopped
            stopped = True
            task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
        return await work

    try:
        return asyncio.run(main())
    finally:
        signal.signal(signal.SIGTERM, usual)
        if stopped:
            signal.raise_signal(signal.SIGTERM)
