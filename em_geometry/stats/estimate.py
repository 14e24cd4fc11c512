"""One number with its uncertainty, as all tables and metrics give it; names of arrays' types."""

import math
from dataclasses import dataclass, replace
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]
OK = "ok"
PROMPTS_ONLY = "prompts_only"  # last word of the key of an interval without retraining


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number, its 95 % interval, and what it rests on.

    Attributes:
        value: None when there is no number.
        low, high: ends of the 95 % interval, both None when there is none.
        n: units that the number rests on (answers, questions, pairs), None when not counted.
        status: "ok", or why there is no number; for a result in words, that word.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: float | None = None
    status: str = OK

    @classmethod
    def undefined(cls, why: str, n: float | None = None) -> Self:
        """No number, and why."""
        return cls(None, n=n, status=why)

    @classmethod
    def from_values(
        cls, value: float, low: float, high: float, n: float | None = None, why: str = "undefined"
    ) -> Self:
        """An estimate of floats, of which a value that is not finite is undefined."""
        if not math.isfinite(value):
            return cls.undefined(why, n)
        if not (math.isfinite(low) and math.isfinite(high)):
            return cls(value, n=n)
        return cls(value, low, high, n)

    @property
    def width(self) -> float | None:
        """Width of the interval, None when there is none."""
        return None if self.low is None or self.high is None else self.high - self.low

    def within(self, least: float, most: float) -> Self:
        """The interval without values that the number cannot have."""
        if self.low is None or self.high is None:
            return self
        return replace(self, low=max(self.low, least), high=min(self.high, most))

    def scaled(self, factor: float) -> Self:
        """Value and interval times a positive factor (shares to percent, say)."""
        parts = self.value, self.low, self.high
        value, low, high = (None if part is None else factor * part for part in parts)
        return replace(self, value=value, low=low, high=high)
