"""Finding this run's numbers by stage and key: value, interval, n, or why there is none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from em_geometry.io.results import Results, read_results
from em_geometry.stats.estimate import OK, Estimate

CALIBRATED = "geometry"  # the stage whose intervals the calibration has
SAME = 1e-3  # relative difference within which two values are the same statistic
MAX_WORDS = 200  # characters of a status that are shown


@dataclass(frozen=True)
class Metrics:
    """All results of a run that are there."""

    stages: Mapping[str, Results]  # by name: "transfer", "training/finance"

    @classmethod
    def read(cls, tables: Path) -> Metrics:
        """Reads every table under `tables`; UserError for a malformed one."""
        return cls(
            {
                path.relative_to(tables).with_suffix("").as_posix(): read_results(path)
                for path in sorted(tables.rglob("*.csv"))
            }
        )

    def _of(self, stage: str) -> Results:
        return self.stages.get(stage, Results())

    def group(self, stage: str, key: str = "") -> dict[str, Estimate]:
        """Results under `key`, by the rest of their keys; empty when there is none."""
        found = self._of(stage)
        return found.group(key) if key else dict(found.rows)

    def names(self, stage: str, key: str = "") -> list[str]:
        """First parts of the keys under `key`, each once, in order."""
        return self._of(stage).names(key)

    def has(self, stage: str, key: str) -> bool:
        """Is there anything at `key` or under it?"""
        return key in self._of(stage) or bool(self.names(stage, key))

    def matches(self, stage: str, pattern: str) -> Iterator[dict[str, str]]:
        """What the names in braces of `pattern` ("pair.{pair}.e1") are, once for each key."""
        wanted = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^.]+)", re.escape(pattern)) + r"(?=\.|$)"
        seen: list[dict[str, str]] = []
        for key in self.group(stage):
            match = re.match(wanted, key)
            if match and match.groupdict() not in seen:
                seen.append(match.groupdict())
                yield seen[-1]

    def text(self, stage: str, key: str) -> str | None:
        """The word at `key`, None when there is none."""
        return _word(self._of(stage).get(key))

    def value(self, stage: str, key: str) -> float | None:
        """The number at `key`, None when there is none."""
        return self.measured(stage, key).value

    def measured(self, stage: str, key: str) -> Estimate:
        """The number at `key`; where there is none, its status says why.

        A statistic of the geometry has its interval in the calibration, where that is of the same
        vectors: the calibration may rest on another contrast than the selected vectors.
        """
        found = self._of(stage).get(key)
        if found is None:
            absent = key if stage in self.stages else f"results of {stage}"
            return Estimate.undefined(f"no {absent} in this run")
        if found.value is None:
            words = "no number" if found.status == OK else found.status
            return Estimate.undefined(words[:MAX_WORDS], found.n)
        if found.low is None and stage == CALIBRATED:
            wide = self._of("calibration").get(f"statistic.{key}")
            apart = SAME * max(1.0, abs(found.value))
            if wide and wide.value is not None and abs(wide.value - found.value) <= apart:
                return Estimate(found.value, wide.low, wide.high, found.n)
        return found


def _word(found: Estimate | None) -> str | None:
    """The word that a result is."""
    return found.status if found is not None and found.value is None else None
