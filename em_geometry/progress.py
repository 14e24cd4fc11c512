"""Progress of long work: a bar on a terminal, plain lines otherwise."""

import sys
import time
from typing import Self

LINE_SECONDS = 15.0  # a plain line at most this often, so that logs stay readable


class Progress:
    """Counts finished units, `done` of them by an earlier run, and shows rate and time left."""

    def __init__(self, label: str, total: int, done: int = 0, unit: str = "it") -> None:
        self.label, self.total, self.done, self.unit = label, total, done, unit
        self._first, self._start = done, time.monotonic()
        self._printed = self._start
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=done, desc=label, unit=unit, leave=True)

    def __enter__(self) -> Self:
        if self._bar is None and self.done:
            self._print(f"{self.done} of {self.total} {self.unit} already done")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            seconds = time.monotonic() - self._start
            self._print(f"{self.done} of {self.total} {self.unit} in {seconds:.0f} s")

    def advance(self, units: int = 1) -> None:
        """Adds finished units."""
        self.done += units
        if self._bar is not None:
            self._bar.update(units)
            return
        now = time.monotonic()
        if now - self._printed >= LINE_SECONDS:
            self._printed = now
            rate = (self.done - self._first) / (now - self._start)
            left = (self.total - self.done) / rate if rate else float("inf")
            self._print(f"{self.done} of {self.total} {self.unit}, {rate:.1f}/s, {left:.0f} s left")

    def _print(self, text: str) -> None:
        print(f"{self.label}: {text}", file=sys.stderr, flush=True)
