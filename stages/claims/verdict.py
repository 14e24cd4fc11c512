"""Does a measured number agree with what the paper states? (METHOD.md: Claims ledger)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from stages.claims.lookup import Measured

Reads = Literal["equal", "between", "below", "above"]
Verdict = Literal[
    "reproduced", "differs", "inconsistent with the paper itself", "not measurable here"
]
NO_INTERVAL = "This run gives no interval, so the value alone is compared, within rounding."


@dataclass(frozen=True)
class Outcome:
    """The verdict of this run on one claim.

    Attributes:
        verdict: agreement, or why there is none to speak of.
        why: what decided it, one sentence.
    """

    verdict: Verdict
    why: str


def covers(measured: Measured, low: float, high: float) -> bool:
    """Whether the interval (else the value) meets the closed range [low, high]."""
    if measured.value is None:
        raise ValueError("nothing was measured")
    bottom = measured.value if measured.low is None else measured.low
    top = measured.value if measured.high is None else measured.high
    return bottom <= high and top >= low


def stated_range(value: Sequence[float], reads: Reads, tolerance: float) -> tuple[float, float]:
    """The closed range that one number may lie in for the statement to hold."""
    if reads == "between":
        return value[0] - tolerance, value[-1] + tolerance
    if reads == "below":
        return float("-inf"), value[0] + tolerance
    if reads == "above":
        return value[0] - tolerance, float("inf")
    return value[0] - tolerance, value[0] + tolerance


def judge(
    values: Sequence[float],
    reads: Reads,
    tolerance: float,
    measured: Sequence[Measured],
    wide: float | None = None,
) -> Outcome:
    """The verdict of this run on a claim about one or several measured numbers.

    A list of values that `reads` equal is compared number by number; any other statement must
    hold for every measured number.

    Args:
        values: the printed numbers, or the ends of the range.
        tolerance: of each of them.
        measured: this run's numbers, in the order of `values` when there are several.
        wide: width from which an interval is too wide to say much; None = any width says enough.
    """
    missing = [m.status for m in measured if m.value is None]
    if missing or not measured:
        return Outcome("not measurable here", _sentence(missing[0] if missing else "no metric"))
    if reads == "equal" and len(values) != len(measured):
        raise ValueError(f"{len(values)} values for {len(measured)} measured numbers")
    ranges = [
        stated_range([values[i]] if reads == "equal" else values, reads, tolerance)
        for i in range(len(measured))
    ]
    held = [covers(m, *r) for m, r in zip(measured, ranges, strict=True)]
    bare = any(m.low is None or m.high is None for m in measured)
    why = NO_INTERVAL if bare else "Compared through the 95 % interval of this run."
    if len(held) > 1:
        why += f" {sum(held)} of {len(held)} numbers agree."
    widths = [m.width for m in measured if m.width is not None]
    if all(held) and wide is not None and widths and max(widths) > wide:
        why += f" An interval {max(widths):.0f} wide agrees with almost anything."
    return Outcome("reproduced" if all(held) else "differs", why)


def _sentence(reason: str) -> str:
    return reason[:1].upper() + reason[1:] + ("" if reason.endswith(".") else ".")
