"""Finding this run's numbers by stage and key: value, interval, n, or why there is none."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from em_geometry.io.results import Results, read_results
from em_geometry.settings import EXPERIMENTS
from em_geometry.stats.estimate import OK, Estimate

CALIBRATED = "geometry"  # the stage whose intervals the calibration has
SAME = 1e-3  # relative difference within which two values are the same statistic
MAX_WORDS = 200  # characters of a status that are shown


@dataclass(frozen=True)
class Metrics:
    """All results of a run that are there."""

    stages: Mapping[str, Results]  # by name: "transfer", "training/finance"

    @classmethod
    def read(cls, tables: Path, experiments: Collection[str] = EXPERIMENTS) -> Self:
        """Reads the tables under `tables`; UserError for a malformed one.

        Args:
            experiments: of neighbouring papers that the run asks for; the tables of the others are
                what a run under other params has left behind.
        """
        names = {
            path: path.relative_to(tables).with_suffix("").as_posix()
            for path in sorted(tables.rglob("*.csv"))
        }
        left = {*EXPERIMENTS} - {*experiments}
        return cls({name: read_results(path) for path, name in names.items() if name not in left})

    def _of(self, where: str) -> tuple[Results, str]:
        stage, _, key = where.partition(":")
        return self.stages.get(stage, Results()), key

    def group(self, where: str) -> dict[str, Estimate]:
        """Results under "stage:key", or all of "stage", by the rest of their keys."""
        found, key = self._of(where)
        return found.group(key) if key else dict(found.rows)

    def names(self, where: str) -> list[str]:
        """First parts of the keys under "stage:key", each once, in order."""
        found, key = self._of(where)
        return found.names(key)

    def has(self, where: str) -> bool:
        """Is there anything at "stage:key" or under it?"""
        found, key = self._of(where)
        return key in found or bool(found.names(key))

    def matches(self, where: str) -> Iterator[dict[str, str]]:
        """What the names in braces of "stage:pair.{pair}.e1" are, once for each key."""
        found, pattern = self._of(where)
        wanted = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^.]+)", re.escape(pattern)) + r"(?=\.|$)"
        seen: list[dict[str, str]] = []
        for key in found.rows:
            match = re.match(wanted, key)
            if match and match.groupdict() not in seen:
                seen.append(match.groupdict())
                yield seen[-1]

    def word(self, where: str) -> str | None:
        """The word at "stage:key", None when there is none."""
        found, key = self._of(where)
        result = found.get(key)
        return result.status if result is not None and result.value is None else None

    def value(self, where: str) -> float | None:
        """The number at "stage:key", None when there is none."""
        return self.estimate(where).value

    def estimate(self, where: str) -> Estimate:
        """The number at "stage:key"; where there is none, its status says why.

        A statistic of the geometry has its interval in the calibration, where that is of the same
        vectors: the calibration may rest on another contrast than the selected vectors.
        """
        stage, _, key = where.partition(":")
        found = self.stages.get(stage, Results()).get(key)
        if found is None:
            absent = key if stage in self.stages else f"results of {stage}"
            return Estimate.undefined(f"no {absent} in this run")
        if found.value is None:
            words = "no number" if found.status == OK else found.status
            return Estimate.undefined(words[:MAX_WORDS], found.n)
        if found.low is None and stage == CALIBRATED:
            wide = self._of("calibration")[0].get(f"statistic.{key}")
            apart = SAME * max(1.0, abs(found.value))
            if wide and wide.value is not None and abs(wide.value - found.value) <= apart:
                return Estimate(found.value, wide.low, wide.high, found.n)
        return found
