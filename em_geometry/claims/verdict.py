"""What this run says of each claim of a paper (docs/method.md: claims ledger).

Two verdicts a claim. *Published*: does it follow from the paper's other numbers? *Run*: does this
run's measurement agree with it? A run measures its own base model, which the output names; on
another model than the paper's, disagreement refutes nothing. What we hold against the paper, and
it does not print, is counted apart. Claims of other papers than the one that is repeated here are
judged only on their own model, else the run's number is set beside them.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from em_geometry.claims.ledger import INFINITY, Claim
from em_geometry.claims.lookup import Metrics
from em_geometry.io.results import nest, rounded, with_printed
from em_geometry.io.tables import csv_text
from em_geometry.stats.decisions import place
from em_geometry.stats.estimate import Estimate

Verdict = Literal[
    "reproduced",
    "differs",
    "cannot tell",
    "inconsistent with the paper itself",
    "not measurable here",
    "set beside",
]
CONTRADICTED: Verdict = "inconsistent with the paper itself"
UNMEASURED: Verdict = "not measurable here"
BESIDE: Verdict = "set beside"  # a number of another model, which this run cannot judge
OURS = {"reproduced": "holds", "inconsistent": "does not hold"}  # published verdicts then
JUDGED_STAGES = {"baseline", "transfer"}  # whose results rest on the judge
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
    beside: tuple[Estimate, ...] = ()  # by judged answers, where `measured` is by margins
    verdict_beside: Verdict | None = None


def judge_claim(claim: Claim, metrics: Metrics, model: str | None = None) -> Judged:
    """Both verdicts on one claim.

    Args:
        metrics: of this run; `published` among them gives what follows from the paper itself.
        model: that this run measures, where a claim about another is to be set beside only.
    """
    said = metrics.word(f"published:claims.{claim.id}.verdict") or claim.verdict
    measured, beside = (
        tuple(map(metrics.estimate, listed)) for listed in (claim.metrics, claim.judged_metrics)
    )
    published = OURS.get(said, said) if claim.source == "ours" else said
    if said == "inconsistent" and claim.source == "printed":
        published = CONTRADICTED
    verdict, why = UNMEASURED, f"No measurement: {claim.reason}."
    if measured:
        verdict, why = compare(claim, measured)
        if verdict != UNMEASURED and model is not None and not same_model(claim.model, model):
            verdict, why = BESIDE, f"Printed for {claim.model}; this run measures {model}."
    elif published == CONTRADICTED and model is None:
        verdict = CONTRADICTED
        why = f"The paper's own numbers contradict it; nothing to measure ({claim.reason})."
    answers = compare(claim, beside) if beside else None
    found = metrics.group(f"published:claims.{claim.id}")
    recomputed = tuple(e for key, e in found.items() if key.partition(".")[0] == "recomputed")
    judged = f"By judged answers: {answers[0]}. {answers[1]}" if answers else ""
    used = (metric.partition(":")[0] for metric in (*claim.metrics, *claim.judged_metrics))
    gate = metrics.word("judge:gate.says") or "not validated"
    gate = f"The judge's gate: {gate}." if JUDGED_STAGES & {*used} else ""
    note = " ".join(part for part in (why, judged, gate, claim.note) if part)
    return Judged(
        claim, measured, recomputed, published, verdict, note, beside, answers and answers[0]
    )


def same_model(one: str, other: str) -> bool:
    """Whether two names are of one model, whoever hosts it."""
    return one.rpartition("/")[2].lower() == other.rpartition("/")[2].lower()


def compare(claim: Claim, measured: Sequence[Estimate]) -> tuple[Verdict, str]:
    """The verdict of this run, and a sentence or two on what decided it.

    A number reproduces its part of the claim when its 95 % interval lies inside what
    `Claim.allowed` gives, and differs when it lies outside; a claim is reproduced when all its
    numbers are, and differs when one does. Anything else cannot be told.

    Args:
        measured: this run's numbers, in the order of the claim's metrics.
    """
    absent = [m.status for m in measured if m.value is None]
    if absent:
        return UNMEASURED, absent[0][:1].upper() + absent[0][1:].removesuffix(".") + "."
    if claim.compute is not None:
        measured = [COMPUTED[claim.compute](measured)]
    allowed = [claim.allowed(i) for i in range(len(measured))]
    places = [place(m, *ends) for m, ends in zip(measured, allowed, strict=True)]
    outside, inside = places.count("outside"), places.count("inside")
    counts = f" {inside} of {len(places)} numbers lie inside, {outside} outside."
    why = counts if len(places) > 1 else ""
    if outside:
        return "differs", "The 95 % interval lies outside what the claim allows." + why
    if inside == len(places):
        return "reproduced", "The 95 % interval lies inside what the claim allows." + why
    undecided = places.index("open")
    if claim.compute is not None:
        return "cannot tell", "The intervals, where there are any, leave it open."
    return "cannot tell", _missing(measured[undecided], *allowed[undecided]) + why


def _missing(found: Estimate, low: float, high: float) -> str:
    """What keeps an interval from being inside or outside of what a claim allows."""
    if found.width is None or found.value is None:
        return "This run gives no interval."
    needed = 2 * min(abs(found.value - low), abs(found.value - high))
    return f"The 95 % interval is {found.width:.3g} wide; below {needed:.3g} it would tell."


def _signs(loadings: Sequence[Estimate]) -> list[int]:
    """+1 or -1 where the interval says which, else 0."""
    return [1 if (e.low or 0) > 0 else -1 if (e.high or 0) < 0 else 0 for e in loadings]


def _words(holds: bool, surely: bool, surely_not: bool) -> Estimate:
    """Whether a statement holds, as a number: 1 or 0, with the interval [0, 1] while unsure."""
    return Estimate(float(holds), float(surely), float(not surely_not))


def _reach(found: Estimate) -> tuple[float, float]:
    """The interval, unbounded where there is none."""
    return (
        -INFINITY if found.low is None else found.low,
        INFINITY if found.high is None else found.high,
    )


def opposite(loadings: Sequence[Estimate]) -> Estimate:
    """1 where the first half has one sign and the second half the other, whichever is which.

    The sign of a component is a convention, so that only this can be told of two groups.
    """
    half = len(loadings) // 2

    def told(signs: Sequence[int]) -> set[int]:
        return {*signs[:half], *(-sign for sign in signs[half:])}

    holds = len(told([1 if (e.value or 0) > 0 else -1 for e in loadings])) == 1
    known = told(_signs(loadings))
    return _words(holds, len(known) == 1 and 0 not in known, {1, -1} <= known)


def between(loadings: Sequence[Estimate]) -> Estimate:
    """1 where the first third lies between the other two on a line, whichever way it runs."""
    third = len(loadings) // 3
    parts = [loadings[i * third : (i + 1) * third] for i in range(3)]

    def apart(below: Sequence[float], above: Sequence[float]) -> bool:
        return max(below) < min(above)

    def holds(low: Sequence[list[float]], high: Sequence[list[float]]) -> bool:
        return any(apart(high[a], low[0]) and apart(high[0], low[b]) for a, b in ((1, 2), (2, 1)))

    middle = [[e.value or 0.0 for e in part] for part in parts]
    low = [[_reach(e)[0] for e in part] for part in parts]
    high = [[_reach(e)[1] for e in part] for part in parts]
    return _words(holds(middle, middle), holds(low, high), not holds(high, low))


def above(numbers: Sequence[Estimate]) -> Estimate:
    """1 where each number of the first half lies above its partner in the second.

    Surely so where intervals lie apart, which is stricter than an interval of the differences.
    """
    half = len(numbers) // 2
    pairs = [*zip(numbers[:half], numbers[half:], strict=True)]
    return _words(
        all((a.value or 0.0) > (b.value or 0.0) for a, b in pairs),
        all(_reach(a)[0] > _reach(b)[1] for a, b in pairs),
        any(_reach(a)[1] < _reach(b)[0] for a, b in pairs),
    )


COMPUTED: dict[str, Callable[[Sequence[Estimate]], Estimate]] = {
    "opposite": opposite,
    "between": between,
    "above": above,
}


def verdict_counts(rows: Sequence[Judged]) -> dict[str, dict[str, Counter[str]]]:
    """How many claims have each verdict (`published`, `run`): printed ones, and ours apart."""
    return {
        source: {
            "published": Counter(row.verdict_published for row in some),
            "run": Counter(row.verdict_run for row in some),
        }
        for source in ("printed", "ours")
        if (some := [row for row in rows if row.claim.source == source])
    }


def claim_values(values: Values) -> dict[str, Any]:
    """`claim.<id>`, or `claim.<id>.<part>` for several numbers: what metrics/claims.json holds."""
    flat: dict[str, object] = {}
    for claim, numbers in values:
        for part, value in enumerate(numbers, start=1):
            key = f"claim.{claim.id}" if len(numbers) == 1 else f"claim.{claim.id}.{part}"
            flat[key] = "none" if value is None else rounded(value)
    return nest(flat)


def printed_beside(rows: Sequence[Judged]) -> dict[str, dict[str, object]]:
    """What metrics/versus_paper/ holds: claims of one printed number that this run measured."""
    return {
        f"{row.claim.id}.{row.claim.metrics[0].partition(':')[2]}": with_printed(
            row.measured[0], row.claim.numbers[0]
        )
        for row in rows
        if (row.claim.source, row.claim.reads) == ("printed", "equal")
        and len(row.measured) == 1
        and row.measured[0].value is not None
    }


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
    "source": lambda r: r.claim.source,
    "published": lambda r: r.claim.text,
    "margin": lambda r: "" if r.claim.margin is None else f"{r.claim.margin:g}",
    "recomputed": lambda r: _values(r.recomputed),
    "verdict_published": lambda r: r.verdict_published,
    "ours": lambda r: _values(r.measured),
    "low": _ends("low"),
    "high": _ends("high"),
    "verdict_run": lambda r: r.verdict_run,
    "judged": lambda r: _values(r.beside),
    "verdict_judged": lambda r: r.verdict_beside or "",
    "metric": lambda r: "; ".join(r.claim.metrics),
    "note": lambda r: r.note,
}


def claims_csv(rows: Sequence[Judged]) -> str:
    """The claims as CSV."""
    return csv_text([*COLUMNS], [[cell(row) for cell in COLUMNS.values()] for row in rows])
