"""Stage `claims`: every claim of the paper beside what this run measured.

    python -m em_geometry.claims.judge_claims

Writes `metrics/claims.json` (two verdicts a claim, and their counts) and `plots/claims.csv` (a
row a claim). *Published* asks whether a claim follows from the paper's other numbers; *run* asks
whether this run's measurement agrees with it. A run measures its own base model, which the
output names; on another model than the paper's, disagreement refutes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from em_geometry.claims.ledger import Claim, read_claims
from em_geometry.claims.lookup import Measured, Metrics, number
from em_geometry.claims.verdict import Outcome, judge
from em_geometry.geometry.table import csv_text
from em_geometry.io.files import write_metrics, write_text
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.settings.params import Params, load_params

METRICS, TABLE = Path("metrics/claims.json"), Path("plots/claims.csv")
OWN = "claims"  # this stage's own metrics file, never an input
CONTRADICTED = "inconsistent with the paper itself"


@dataclass(frozen=True)
class Row:
    """One claim with this run's numbers, those from the paper itself, and both verdicts."""

    claim: Claim
    measured: tuple[Measured, ...]  # in the order of the claim's metrics
    recomputed: tuple[Measured, ...]  # from the paper's other numbers; empty where there is none
    verdict_published: str
    outcome: Outcome

    @property
    def note(self) -> str:
        """Why this run's verdict is what it is, then what the ledger adds."""
        return " ".join(part for part in (self.outcome.why, self.claim.note) if part)


def judge_claim(claim: Claim, metrics: Metrics, wide: float) -> Row:
    """Both verdicts on one claim.

    Args:
        metrics: of this run; `published` among them gives what follows from the paper itself.
        wide: percentage points from which an interval says little.
    """
    said = metrics.text("published", f"claims.{claim.id}.verdict") or claim.verdict
    published = CONTRADICTED if said == "inconsistent" else said
    measured = tuple(metrics.measured(*metric.split(":", 1)) for metric in claim.metrics)
    if claim.reads != "words" and measured:
        limit = wide if claim.unit == "percent" else None
        outcome = judge(claim.numbers, claim.reads, claim.tolerance, measured, limit)
    elif published == CONTRADICTED:
        why = f"The paper's own numbers contradict it; nothing to measure ({claim.reason})."
        outcome = Outcome("inconsistent with the paper itself", why)
    else:
        outcome = Outcome("not measurable here", f"No measurement: {claim.reason}.")
    found = metrics.group("published", f"claims.{claim.id}.recomputed")
    parts = [found] if "value" in found else list(found.values())
    recomputed = tuple(
        Measured(number(p.get("value")), number(p.get("low")), number(p.get("high"))) for p in parts
    )
    return Row(claim, measured, recomputed, published, outcome)


def numbers_text(values: Sequence[float | None], absent: str = "none") -> str:
    """Numbers to four significant digits; empty where there are none."""
    return "; ".join(absent if v is None else f"{v:.4g}" for v in values)


def _values(numbers: Sequence[Measured]) -> str:
    return numbers_text([m.value for m in numbers])


def metrics_of(rows: Sequence[Row], params: Params) -> dict[str, Any]:
    """The content of metrics/claims.json: finite scalars and strings."""
    return {
        "model": params.base.source,
        "profile": params.profile,
        "claims": len(rows),
        "count": {
            "published": dict(Counter(r.verdict_published for r in rows)),
            "run": dict(Counter(r.outcome.verdict for r in rows)),
        },
        "claim": {row.claim.id: _claim_metrics(row) for row in rows},
    }


def _claim_metrics(row: Row) -> dict[str, Any]:
    claim = row.claim
    single = claim.reads == "equal" and len(claim.numbers) == 1
    entry: dict[str, Any] = {
        "section": claim.section,
        "quantity": claim.quantity,
        "unit": claim.unit,
        "formula": claim.formula,
        "needs": claim.needs,
        "reads": claim.reads,
        "published": claim.numbers[0] if single else claim.text,
        "verdict_published": row.verdict_published,
        "verdict_run": row.outcome.verdict,
        "note": row.note,
    }
    if row.recomputed:
        entry["recomputed"] = _values(row.recomputed)
    if claim.hypotheses:
        entry["hypotheses"] = " ".join(claim.hypotheses)
    parts: list[dict[str, Any]] = []
    for metric, m in zip(claim.metrics, row.measured, strict=True):
        ours = {"ours": m.status if m.value is None else m.value}
        known = {"low": m.low, "high": m.high, "n": m.n}
        parts.append(
            {"metric": metric, **ours, **{k: v for k, v in known.items() if v is not None}}
        )
    if claim.reads == "equal":
        parts = [p | {"published": n} for p, n in zip(parts, claim.numbers, strict=False)]
    if len(parts) == 1:
        return entry | parts[0]
    if parts:
        entry["ours"] = _values(row.measured)
        entry["part"] = {str(i): part for i, part in enumerate(parts, start=1)}
    return entry


def _ends(side: str) -> Callable[[Row], str]:
    return lambda r: numbers_text([getattr(m, side) for m in r.measured if m.value is not None], "")


# plots/claims.csv: one row a claim, several numbers in one cell set apart by semicolons
COLUMNS: dict[str, Callable[[Row], str]] = {
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
    "verdict_run": lambda r: r.outcome.verdict,
    "metric": lambda r: "; ".join(r.claim.metrics),
    "note": lambda r: r.note,
}


def main(params: Params) -> None:
    """Judges all claims of the ledger against this run's metrics."""
    metrics = Metrics.read(without=(OWN,), profile=params.profile)
    rows = [judge_claim(c, metrics, params.report.wide_interval) for c in read_claims()]
    write_metrics(METRICS, metrics_of(rows, params))
    write_text(TABLE, csv_text([*COLUMNS], [[cell(r) for cell in COLUMNS.values()] for r in rows]))
    counts = Counter(row.outcome.verdict for row in rows)
    words = ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common())
    print(f"{len(rows)} claims on {params.base.source}: {words}")


def cli(params: ParamsFile = PARAMS) -> None:
    """Set the paper's claims beside what this run measured."""
    main(load_params(params))
