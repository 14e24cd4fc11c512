"""Does a shift of activations lie along known misalignment directions, and since when?

Pure functions. A shift is a checkpoint's activation minus the base's on the same prompt. Each
detector gives every shift one number (residual-stream units); intervals come from drawing the
prompts' topics with replacement, because prompts of a topic resemble each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from em_geometry.stats.arrays import Floats
from em_geometry.stats.resample import stream

OWN, ONE, MANY = "own", "one", "k"
UNSEEN_ONE, UNSEEN_MANY, SIZE = "unseen_one", "unseen_k", "size"
DETECTORS = (OWN, ONE, MANY, UNSEEN_ONE, UNSEEN_MANY, SIZE)
QUANTILES = (0.025, 0.975)
RANK = 1e-6  # singular values below this share of the largest span nothing


@dataclass(frozen=True, eq=False)
class Detector:
    """What a shift is measured by.

    Attributes:
        directions: orthonormal rows [k, width]; None = the length of the whole shift.
        signed: the signed projection on the first row, not the length of that on all of them.
    """

    directions: Floats | None
    signed: bool = False

    def scores(self, shifts: Floats) -> Floats:
        """One number [prompts] a shift [prompts, width]."""
        parts = shifts if self.directions is None else shifts @ self.directions.T
        found: Floats = parts[:, 0] if self.signed else np.linalg.norm(parts, axis=1)
        return found


def detectors(
    vectors: Mapping[str, Floats], clusters: Mapping[str, str], slug: str
) -> dict[str, Detector | str]:
    """All detectors of organism `slug`, or why there is none.

    `own` is its own vector, known beforehand; `one` the mean direction of all unit vectors and
    `k` their span; `unseen_one` and `unseen_k` are made of the other clusters' vectors only, so
    that its mechanism is unseen; `size` knows no direction.

    Args:
        vectors: organism -> vector [width], not zero.
        clusters: organism -> cluster.
    """
    unit = {name: v / np.linalg.norm(v) for name, v in vectors.items()}
    every = np.stack(list(unit.values()))
    others = [v for name, v in unit.items() if clusters[name] != clusters[slug]]
    found: dict[str, Detector | str] = {
        OWN: Detector(unit[slug][None], signed=True),
        ONE: _mean_direction(every),
        MANY: Detector(basis(every)),
        UNSEEN_ONE: "undefined: no vector of another cluster",
        UNSEEN_MANY: "undefined: no vector of another cluster",
        SIZE: Detector(None),
    }
    if others:
        rest = np.stack(others)
        found |= {UNSEEN_ONE: _mean_direction(rest), UNSEEN_MANY: Detector(basis(rest))}
    return found


def basis(vectors: Floats) -> Floats:
    """Orthonormal rows [rank, width] that span the rows of `vectors` [n, width]."""
    _, values, rows = np.linalg.svd(vectors, full_matrices=False)
    found: Floats = rows[values > RANK * values[0]]
    return found


def _mean_direction(unit: Floats) -> Detector | str:
    mean = unit.mean(0)
    length = np.linalg.norm(mean)
    if length < RANK:
        return "undefined: the vectors cancel out"
    return Detector((mean / length)[None], signed=True)


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Draws:
    """Draws of the prompts' topics with replacement, the same for everything compared.

    Attributes:
        member: [topics, prompts] 1 where a prompt is of a topic.
        weights: [draws, topics] how often each topic was drawn.
    """

    member: Floats
    weights: Floats

    @classmethod
    def of(cls, topics: Sequence[str], seed: int, count: int) -> Draws:
        """`count` draws for prompts with these `topics` [prompts]."""
        names = sorted(set(topics))
        member = np.array([[t == name for t in topics] for name in names], dtype=np.float64)
        share = np.full(len(names), 1.0 / len(names))
        rng = stream(seed, "monitoring", "topics")
        return cls(member, rng.multinomial(len(names), share, count).astype(np.float64))

    @property
    def _sizes(self) -> Floats:
        found: Floats = self.weights @ self.member.sum(1)
        return found

    def mean(self, scores: Floats) -> Interval:
        """Mean of `scores` [prompts]."""
        return _interval(float(scores.mean()), self.weights @ (self.member @ scores) / self._sizes)

    def auroc(self, scores: Floats, control: Floats) -> Interval:
        """Chance that a score lies above one of the control's, ties half; both [prompts]."""
        above = (scores[:, None] > control) + 0.5 * (scores[:, None] == control)
        between = self.member @ above @ self.member.T
        drawn = np.einsum("bt,tu,bu->b", self.weights, between, self.weights, optimize=True)
        return _interval(float(above.mean()), drawn / self._sizes**2)


def _interval(value: float, draws: Floats) -> Interval:
    low, high = np.quantile(draws, QUANTILES)
    return Interval(value, float(low), float(high))


def first_above(steps: Sequence[int], lows: Sequence[float], ceiling: float) -> int | None:
    """The first step whose interval lies wholly above `ceiling`; None when none does."""
    return next((s for s, low in zip(steps, lows, strict=True) if low > ceiling), None)


def compared(direction: int | None, behaviour: int | None) -> str:
    """Whether the direction shows before the behaviour, from the first step of each."""
    if direction is None and behaviour is None:
        return "neither shows"
    if behaviour is None:
        return "only the direction shows"
    if direction is None:
        return "only the behaviour shows"
    if direction == behaviour:
        return "at the same checkpoint"
    return "before the behaviour" if direction < behaviour else "after the behaviour"
