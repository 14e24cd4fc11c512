"""The protocol of judges: rows of question and answer in, one judgement a row out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import polars as pl

Status = Literal["ok", "refusal", "code", "low_mass", "api_error"]

# From the most to the least serious: a row takes the first that any of its aspects has.
STATUSES: tuple[Status, ...] = ("api_error", "refusal", "code", "low_mass", "ok")


@dataclass(frozen=True, slots=True)
class JudgeRow:
    """A question and the answer to be judged."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge said about one row, by aspect.

    Attributes:
        scores: 0-100, None where there is none (never a zero, never NaN).
        status: ok | refusal (the answer declines) | code (the answer is program code) |
            low_mass (the judge gave no usable number) | api_error (no reply; not final).
        raw: whatever the score was computed from, JSON-able.
    """

    scores: dict[str, float | None]
    status: dict[str, Status]
    raw: dict[str, Any] = field(default_factory=dict)

    def add(self, aspect: str, score: float | None, status: Status, raw: str) -> None:
        """What was said of one more aspect."""
        self.scores[aspect], self.status[aspect], self.raw[aspect] = score, status, raw


class Judge(Protocol):
    """A judge; `id` names everything that its scores depend on besides the rows."""

    @property
    def id(self) -> str: ...

    def judge(self, rows: Sequence[JudgeRow], label: str = "judge") -> list[Judgement]:
        """One judgement a row, in order; long work shows its progress as `label`."""
        ...


def row_status(status: Mapping[str, Status]) -> Status:
    """The one status of a row: the most serious of its aspects'."""
    present = set(status.values())
    return next((s for s in STATUSES if s in present), "ok")


def statuses(frame: pl.DataFrame, aspects: Sequence[str]) -> list[Status]:
    """`row_status` of each row of a frame of judged answers."""
    states = [f"{aspect}_status" for aspect in aspects]
    rows = frame.select(states).iter_rows()
    return [row_status(dict(zip(states, row, strict=True))) for row in rows]
