"""Named statistics of Gram matrices: arrays inside, finite numbers and statuses outside."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from em_geometry.geometry.gram import Floats
from em_geometry.geometry.verdict import WORDS
from em_geometry.io.files import nest

COUNTS = ("verdict.count", "clusters.silhouette_k")


@dataclass
class Battery:
    """All statistics of the battery.

    Attributes:
        values: key -> [...], NaN where undefined.
        reasons: key -> why it can be undefined.
    """

    values: dict[str, Floats] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def put(self, key: str, value: Floats, reason: str = "undefined") -> None:
        self.values[key] = value
        self.reasons[key] = reason

    def flat(self) -> dict[str, float | int | str]:
        """One Gram matrix's metrics by key; undefined ones are strings that say why."""
        return {key: self._plain(key, float(value)) for key, value in self.values.items()}

    def metrics(self) -> dict[str, object]:
        """`flat`, nested at the dots."""
        return nest(self.flat())

    def _plain(self, key: str, value: float) -> float | int | str:
        if not np.isfinite(value):
            return self.reasons[key]
        if key.startswith("verdict.test"):
            return WORDS[value]
        if key in COUNTS:
            return int(value)
        return value
