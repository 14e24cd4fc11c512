"""Progress of long work: a bar on a terminal, plain lines otherwise."""

import sys
from typing import Any

from tqdm import tqdm

LINE_SECONDS = 15.0  # a plain line at most this often, so that logs stay readable
LINE = "{desc}: {n} of {total} {unit}, {rate_noinv_fmt}, {remaining} left\n"
tqdm.monitor_interval = 0  # no thread beside the work


class Progress(tqdm):  # type: ignore[misc]
    """Counts finished units, `done` of them by an earlier run, and shows rate and time left."""

    def __init__(self, label: str, total: int, done: int = 0, unit: str = "it") -> None:
        plain: dict[str, Any] = {"bar_format": LINE, "mininterval": LINE_SECONDS}
        how = {} if sys.stderr.isatty() else plain
        super().__init__(total=total, initial=done, desc=label, unit=unit, **how)

    advance = tqdm.update  # adds finished units
