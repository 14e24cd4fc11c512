"""Stage `claims`: every claim of the paper beside what this run measured.

    python -m stages.claims.judge_claims

Writes `metrics/claims.json` (two verdicts a claim, and their counts) and `plots/claims.csv` (a
row a claim). *Published* asks whether a claim follows from the paper's other numbers; *run* asks
whether this run's measurement agrees with it. A run measures its own base model, which the
output names; on another model than the paper's, disagreement refutes nothing.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.claims.lookup import Measured, Metrics, number
from stages.claims.verdict import Outcome, judge
from stages.common.artifacts import write_metrics, write_text
from stages.common.command import PARAMS, ParamsFile, run
from stages.common.params import Params, load_params
from stages.paper.claims import Claim, read_claims

METRICS, TABLE = Path("metrics/claims.json"), Path("plots/claims.csv")
OWN = "claims"  # this stage's own metrics file, never an input
CONTRADICTED = "inconsistent with the paper itself"
COLUMNS = (
    "id",
    "section",
    "quantity",
    "unit",
    "published",
    "recomputed",
    "verdict_published",
    "ours",
    "low",
    "high",
    "verdict_run",
    "metric",
    "note",
)


@dataclass(frozen=True)
class Row:
    """One claim with everything that is known about it.

    Attributes:
        measured: this run's numbers, in the order of the claim's metrics.
        recomputed: the same number from the paper's other numbers; empty where there is none.
        verdict_published, outcome: the two verdicts.
    """

    claim: Claim
    measured: tuple[Measured, ...]
    recomputed: tuple[Measured, ...]
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
    return Row(claim, measured, _recomputed(claim, metrics), published, outcome)


def _recomputed(claim: Claim, metrics: Metrics) -> tuple[Measured, ...]:
    found = metrics.group("published", f"claims.{claim.id}.recomputed")
    parts = [found] if "value" in found else list(found.values())
    return tuple(
        Measured(number(part.get("value")), number(part.get("low")), number(part.get("high")))
        for part in parts
    )


def published_text(claim: Claim) -> str:
    """What the paper prints, as text."""
    numbers = [f"{n:g}" for n in claim.numbers]
    if claim.reads == "between":
        return " to ".join(numbers)
    prefix = "" if claim.reads in ("equal", "words") else f"{claim.reads} "
    return prefix + ("; ".join(numbers) or "in words")


def numbers_text(measured: Sequence[Measured]) -> str:
    """Numbers to four significant digits; empty where there are none."""
    return "; ".join("none" if m.value is None else f"{m.value:.4g}" for m in measured)


def metrics_of(rows: Sequence[Row], params: Params) -> dict[str, Any]:
    """The content of metrics/claims.json: finite scalars and strings."""
    found: dict[str, Any] = {
        "model": params.base.source,
        "profile": params.profile,
        "claims": len(rows),
        "count": {
            "published": dict(Counter(r.verdict_published for r in rows)),
            "run": dict(Counter(r.outcome.verdict for r in rows)),
        },
    }
    return found | {"claim": {row.claim.id: _claim_metrics(row) for row in rows}}


def _claim_metrics(row: Row) -> dict[str, Any]:
    claim = row.claim
    entry: dict[str, Any] = {
        "section": claim.section,
        "quantity": claim.quantity,
        "unit": claim.unit,
        "formula": claim.formula,
        "needs": claim.needs,
        "reads": claim.reads,
        "published": published_text(claim),
        "verdict_published": row.verdict_published,
        "verdict_run": row.outcome.verdict,
        "note": row.note,
    }
    if claim.reads == "equal" and len(claim.numbers) == 1:
        entry["published"] = claim.numbers[0]
    if row.recomputed:
        entry["recomputed"] = numbers_text(row.recomputed)
    if claim.hypotheses:
        entry["hypotheses"] = " ".join(claim.hypotheses)
    parts = [
        {"metric": metric} | _scalars(measured)
        for metric, measured in zip(claim.metrics, row.measured, strict=True)
    ]
    if claim.reads == "equal":
        parts = [p | {"published": n} for p, n in zip(parts, claim.numbers, strict=False)]
    if len(parts) == 1:
        return entry | parts[0]
    if parts:
        entry["ours"] = numbers_text(row.measured)
        entry["part"] = {str(i): part for i, part in enumerate(parts, start=1)}
    return entry


def _scalars(measured: Measured) -> dict[str, Any]:
    values = {"ours": measured.value, "low": measured.low, "high": measured.high, "n": measured.n}
    found: dict[str, Any] = {k: v for k, v in values.items() if v is not None}
    return found if measured.value is not None else found | {"ours": measured.status}


def csv_of(rows: Sequence[Row]) -> str:
    """plots/claims.csv: one row a claim, several numbers in one cell set apart by semicolons."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        claim, shown = row.claim, [m for m in row.measured if m.value is not None]
        writer.writerow(
            [
                claim.id,
                claim.section,
                claim.quantity,
                claim.unit,
                published_text(claim),
                numbers_text(row.recomputed),
                row.verdict_published,
                numbers_text(row.measured),
                "; ".join("" if m.low is None else f"{m.low:.4g}" for m in shown),
                "; ".join("" if m.high is None else f"{m.high:.4g}" for m in shown),
                row.outcome.verdict,
                "; ".join(claim.metrics),
                row.note,
            ]
        )
    return text.getvalue()


def main(params: Params) -> None:
    """Judges all claims of the ledger against this run's metrics."""
    metrics = Metrics.read(without=(OWN,))
    rows = [judge_claim(c, metrics, params.report.wide_interval) for c in read_claims()]
    write_metrics(METRICS, metrics_of(rows, params))
    write_text(TABLE, csv_of(rows))
    counts = Counter(row.outcome.verdict for row in rows)
    words = ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common())
    print(f"{len(rows)} claims on {params.base.source}: {words}")


def cli(params: ParamsFile = PARAMS) -> None:
    """Set the paper's claims beside what this run measured."""
    main(load_params(params))


if __name__ == "__main__":
    run(cli)
