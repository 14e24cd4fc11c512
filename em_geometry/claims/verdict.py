"""What this run says of each claim of the paper (docs/method.md: claims ledger).

Two verdicts a claim. *Published*: does it follow from the paper's other numbers? *Run*: does this
run's measurement agree with it? A run measures its own base model, which the output names; on
another model than the paper's, disagreement refutes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from em_geometry.claims.ledger import Claim
from em_geometry.claims.lookup import Metrics
from em_geometry.io.results import nest, rounded
from em_geometry.io.tables import csv_text
from em_geometry.stats.estimate import Estimate

Verdict = Literal[
    "reproduced", "differs", "inconsistent with the paper itself", "not measurable here"
]
CONTRADICTED: Verdict = "inconsistent with the paper itself"
UNMEASURED: Verdict = "not measurable here"
NO_INTERVAL = "This run gives no interval, so the value alone is compared, within rounding."
INFINITY = float("inf")
UNITS = ("cosine", "deg", "percent")  # units with enough claims for a chart
Values = Iterable[tuple[Claim, Sequence[float | None]]]  # claims, a number for each metric or None


@dataclass(frozen=True)
class Judged:
    """One claim with this run's numbers, those from the paper itself, and both verdicts."""

    claim: Claim
    measured: tuple[Estimate, ...]  # in the order of the claim's metrics
    recomputed: tuple[Estimate, ...]  # from the paper's other numbers, where there are any
    verdict_published: str
    verdict_run: Verdict
    note: str  # why this run's verdict is what it is, then what the ledger adds


def judge_claim(claim: Claim, metrics: Metrics, wide: float) -> Judged:
    """Both verdicts on one claim.

    Args:
        metrics: of this run; `published` among them gives what follows from the paper itself.
        wide: percentage points from which an interval says little.
    """
    said = metrics.text("published", f"claims.{claim.id}.verdict") or claim.verdict
    published = CONTRADICTED if said == "inconsistent" else said
    measured = tuple(metrics.measured(*metric.split(":", 1)) for metric in claim.metrics)
    verdict, why = UNMEASURED, f"No measurement: {claim.reason}."
    if claim.reads != "words" and measured:
        verdict, why = compare(claim, measured, wide if claim.unit == "percent" else None)
    elif published == CONTRADICTED:
        verdict = CONTRADICTED
        why = f"The paper's own numbers contradict it; nothing to measure ({claim.reason})."
    found = metrics.group("published", f"claims.{claim.id}")
    recomputed = tuple(e for key, e in found.items() if key.partition(".")[0] == "recomputed")
    note = " ".join(part for part in (why, claim.note) if part)
    return Judged(claim, measured, recomputed, published, verdict, note)


def compare(
    claim: Claim, measured: Sequence[Estimate], wide: float | None = None
) -> tuple[Verdict, str]:
    """The verdict of this run, and one sentence on what decided it.

    Numbers that the claim `reads` equal are compared one by one; any other statement must hold
    for every measured number. A number agrees when its interval (else its value) meets the range
    that the statement allows.

    Args:
        measured: this run's numbers, in the order of the claim's when it has several.
        wide: width from which an interval is too wide to say much; None = any width says enough.
    """
    values, reads = claim.numbers, claim.reads
    absent = [m.status for m in measured if m.value is None]
    if absent:
        return UNMEASURED, absent[0][:1].upper() + absent[0][1:].removesuffix(".") + "."
    held = []
    for i, m in enumerate(measured):
        stated = [values[i]] if reads == "equal" else values
        bottom = -INFINITY if reads == "below" else stated[0] - claim.tolerance
        top = INFINITY if reads == "above" else stated[-1] + claim.tolerance
        low, high = (m.value if end is None else end for end in (m.low, m.high))
        held.append(low is not None and high is not None and low <= top and high >= bottom)
    bare = any(m.width is None for m in measured)
    why = NO_INTERVAL if bare else "Compared through the 95 % interval of this run."
    if len(held) > 1:
        why += f" {sum(held)} of {len(held)} numbers agree."
    widest = max((m.width for m in measured if m.width is not None), default=0.0)
    if all(held) and wide is not None and widest > wide:
        why += f" An interval {widest:.0f} wide agrees with almost anything."
    return "reproduced" if all(held) else "differs", why


def verdict_counts(rows: Sequence[Judged]) -> dict[str, Counter[str]]:
    """How many claims have each verdict: `published` and `run`."""
    return {
        "published": Counter(row.verdict_published for row in rows),
        "run": Counter(row.verdict_run for row in rows),
    }


def claim_values(values: Values) -> dict[str, Any]:
    """`claim.<id>`, or `claim.<id>.<part>` for several numbers: what metrics/claims.json holds."""
    flat: dict[str, object] = {}
    for claim, numbers in values:
        for part, value in enumerate(numbers, start=1):
            key = f"claim.{claim.id}" if len(numbers) == 1 else f"claim.{claim.id}.{part}"
            flat[key] = "none" if value is None else rounded(value)
    return nest(flat)


def series(values: Values) -> dict[str, str]:
    """A chart's CSV for each unit: a bar a claim and number, for this run or for the paper."""
    rows: dict[str, list[tuple[str, float]]] = {unit: [] for unit in UNITS}
    for claim, numbers in values:
        for metric, value in zip(claim.metrics, numbers, strict=False):
            if claim.unit in rows and value is not None:
                label = metric.partition(":")[2].replace("__", "/")
                rows[claim.unit].append((f"{claim.id} {label}", round(value, 6)))
    return {unit: csv_text(["claim", "value"], found) for unit, found in rows.items()}


def numbers_text(values: Sequence[float | None], absent: str = "none") -> str:
    """Numbers to four significant digits; empty where there are none."""
    return "; ".join(absent if v is None else f"{v:.4g}" for v in values)


def _values(numbers: Sequence[Estimate]) -> str:
    return numbers_text([m.value for m in numbers])


def _ends(side: str) -> Callable[[Judged], str]:
    return lambda r: numbers_text([getattr(m, side) for m in r.measured if m.value is not None], "")


# A row a claim; several numbers in one cell are set apart by semicolons.
COLUMNS: dict[str, Callable[[Judged], str]] = {
    "id": lambda r: r.claim.id,
    "section": lambda r: r.claim.section,
    "quantity": lambda r: r.claim.quantity,
    "unit": lambda r: r.claim.unit,
    "published": lambda r: r.claim.text,
    "recomputed": lambda r: _values(r.recomputed),
    "verdict_published": lambda r: r.verdict_published,
    "ours": lambda r: _values(r.measured),
    "low": _ends("low"),
    "high": _ends("high"),
    "verdict_run": lambda r: r.verdict_run,
    "metric": lambda r: "; ".join(r.claim.metrics),
    "note": lambda r: r.note,
}


def claims_csv(rows: Sequence[Judged]) -> str:
    """The claims as CSV."""
    return csv_text([*COLUMNS], [[cell(row) for cell in COLUMNS.values()] for row in rows])
