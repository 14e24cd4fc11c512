"""Does a measured number agree with what the paper states? (METHOD.md: Claims ledger)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from em_geometry.claims.lookup import Measured

Reads = Literal["equal", "between", "below", "above"]
Verdict = Literal[
    "reproduced", "differs", "inconsistent with the paper itself", "not measurable here"
]
NO_INTERVAL = "This run gives no interval, so the value alone is compared, within rounding."
INFINITY = float("inf")


@dataclass(frozen=True)
class Outcome:
    """The verdict of this run on one claim, and one sentence on what decided it."""

    verdict: Verdict
    why: str


def judge(
    values: Sequence[float],
    reads: Reads,
    tolerance: float,
    measured: Sequence[Measured],
    wide: float | None = None,
) -> Outcome:
    """The verdict of this run on a claim about one or several measured numbers.

    A list of values that `reads` equal is compared number by number; any other statement must
    hold for every measured number. A number agrees when its interval (else its value) meets the
    range that the statement allows.

    Args:
        values: the printed numbers, or the ends of the range.
        tolerance: of each of them.
        measured: this run's numbers, in the order of `values` when there are several.
        wide: width from which an interval is too wide to say much; None = any width says enough.
    """
    missing = [m.status for m in measured if m.value is None]
    if missing or not measured:
        reason = missing[0] if missing else "no metric"
        sentence = reason[:1].upper() + reason[1:] + ("" if reason.endswith(".") else ".")
        return Outcome("not measurable here", sentence)
    if reads == "equal" and len(values) != len(measured):
        raise ValueError(f"{len(values)} values for {len(measured)} measured numbers")
    held = []
    for i, m in enumerate(measured):
        stated = [values[i]] if reads == "equal" else values
        low = -INFINITY if reads == "below" else stated[0] - tolerance
        high = INFINITY if reads == "above" else stated[-1] + tolerance
        bottom, top = (m.value if end is None else end for end in (m.low, m.high))
        held.append(bottom is not None and top is not None and bottom <= high and top >= low)
    bare = any(m.width is None for m in measured)
    why = NO_INTERVAL if bare else "Compared through the 95 % interval of this run."
    if len(held) > 1:
        why += f" {sum(held)} of {len(held)} numbers agree."
    widest = max((m.width for m in measured if m.width is not None), default=0.0)
    if all(held) and wide is not None and widest > wide:
        why += f" An interval {widest:.0f} wide agrees with almost anything."
    return Outcome("reproduced" if all(held) else "differs", why)
