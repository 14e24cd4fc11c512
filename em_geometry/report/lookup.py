"""Finding numbers in the metrics files by key: value, interval, n, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from em_geometry.io.files import read_json

FOLDER = Path("metrics")
# The number of a group that `low` and `high` of the same group belong to.
VALUES = ("value", "value_pct", "difference_pct", "e1_pct", "rho", "mean")
CALIBRATED = "geometry"  # the file whose intervals stand in metrics/calibration.json
SAME = 1e-3  # relative difference within which two values are the same statistic
COMMANDS = ("seeds",)  # files that no stage of the graph makes, but `make <file>`
MAX_WORDS = 200  # characters of a status that are shown


@dataclass(frozen=True)
class Measured:
    """One number as a metrics file gives it.

    Attributes:
        value: None when there is no number.
        low, high: 95 % interval, None when the file gives none.
        n: rows or units behind it, None when the file gives none.
        status: "ok" or why there is no number.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: float | None = None
    status: str = "ok"

    @property
    def width(self) -> float | None:
        """Width of the interval."""
        if self.low is None or self.high is None:
            return None
        return self.high - self.low


def number(value: object) -> float | None:
    """`value` as a finite float, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def flatten(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested dictionaries as (dotted key, value), in order."""
    for name, inner in nested.items():
        key = f"{prefix}.{name}" if prefix else name
        if isinstance(inner, Mapping):
            yield from flatten(inner, key)
        else:
            yield key, inner


@dataclass(frozen=True)
class Metrics:
    """All metrics files that are there.

    Attributes:
        files: name of the file without ending ("transfer", "training/finance") -> content.
    """

    files: Mapping[str, Any]

    @classmethod
    def read(
        cls, folder: Path = FOLDER, without: tuple[str, ...] = (), profile: str | None = None
    ) -> Metrics:
        """Reads every JSON under `folder`; UserError for a malformed one.

        What a command made (`COMMANDS`) stays from run to run: with a `profile`, it is left out
        where it is of another one.
        """
        paths = sorted(folder.rglob("*.json")) if folder.is_dir() else []
        names = [path.relative_to(folder).with_suffix("").as_posix() for path in paths]
        files = {n: read_json(p) for n, p in zip(names, paths, strict=True) if n not in without}
        for name in COMMANDS:
            if profile and profile != files.get(name, {}).get("profile"):
                files.pop(name, None)
        return cls(files)

    def find(self, file: str, key: str = "") -> Any:
        """What stands at dotted `key` of `file`; None when nothing does."""
        found = self.files.get(file)
        for part in key.split(".") if key else ():
            found = found.get(part) if isinstance(found, Mapping) else None
        return found

    def group(self, file: str, key: str = "") -> Mapping[str, Any]:
        """The dictionary at `key`, empty when there is none."""
        found = self.find(file, key)
        return found if isinstance(found, Mapping) else {}

    def text(self, file: str, key: str) -> str | None:
        """The string at `key`, None when there is none."""
        found = self.find(file, key)
        return found if isinstance(found, str) else None

    def measured(self, file: str, key: str) -> Measured:
        """The number at `key` with its interval.

        `key` may name a group (value, low, high, n, status) or one number. A number
        `<stem>_pct` has its interval in `<stem>_low` and `<stem>_high`; any other number in
        `<name>_low` and `<name>_high`; a group's main number (`VALUES`) in `low` and `high`.
        """
        found = self.find(file, key)
        if found is None:
            absent = key if file in self.files else f"metrics/{file}.json"
            if file in COMMANDS:
                return Measured(None, status=f"no {absent} of this profile: make {file}")
            return Measured(None, status=f"no {absent} in this run")
        path, _, name = key.rpartition(".")
        if isinstance(found, Mapping):
            name = next((v for v in VALUES if v in found), "")
            beside, found = found, found.get(name)
        else:
            beside = self.group(file, path)
        status = beside.get("status", "ok")
        value = number(found)
        if value is None:
            said = found if isinstance(found, str) else status
            words = said if isinstance(said, str) and said != "ok" else "no number"
            return Measured(None, n=number(beside.get("n")), status=words[:MAX_WORDS])
        low, high = _interval(beside, name)
        if low is None and file == CALIBRATED:
            low, high = self._bootstrap(key, value)
        return Measured(value, low, high, number(beside.get("n")))

    def _bootstrap(self, key: str, value: float) -> tuple[float | None, float | None]:
        """Interval of a geometry metric from the calibration, where that is of the same vectors.

        The calibration may rest on another contrast than the selected vectors; its observed value
        then differs, and its interval is not that of `value`.
        """
        entry = self.group("calibration", f"statistic.{key}")
        observed = number(entry.get("observed"))
        if observed is None or abs(observed - value) > SAME * max(1.0, abs(value)):
            return None, None
        return _interval(entry, "value")


def _interval(beside: Mapping[str, Any], name: str) -> tuple[float | None, float | None]:
    stem = name.removesuffix("_pct")
    keys = [(f"{stem}_low", f"{stem}_high"), (f"{name}_low", f"{name}_high")]
    keys += [("low", "high")] if name in VALUES else []
    keys += [("rd_low", "rd_high")] if stem == "risk_difference" else []
    for low_key, high_key in keys:
        low, high = number(beside.get(low_key)), number(beside.get(high_key))
        if low is not None and high is not None:
            return low, high
    return None, None
