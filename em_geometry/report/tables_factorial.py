"""Tables of the designed comparison: what is confounded, and what each factor does."""

from __future__ import annotations

from em_geometry.report.lookup import Metrics
from em_geometry.report.tables import Table, cells
from em_geometry.report.text import decimals, with_interval

FILE = "factorial"
MEASURES = {  # key -> heading, decimals
    "angle_deg": ("Angle between two vectors (degrees)", 1),
    "base_similarity": ("Similarity of an organism to the base (cosine)", 3),
    "asymmetry_pct": ("Transfer given minus received (percentage points)", 1),
}


def confounding_table(metrics: Metrics) -> Table | None:
    """Which factors can be told apart over the organisms of this run."""
    rows = []
    for key, found in metrics.group(FILE, "confounding").items():
        v = found["cramers_v"]
        share = f"{found['separable']} of {found['contrasts']}"
        strength = v if isinstance(v, str) else decimals(v, 2)
        rows.append(cells(key.replace("__", " and "), strength, share, found["together"]))
    if not rows:
        return None
    n = int(metrics.measured(FILE, "organisms").value or 0)
    return Table(
        "confounding",
        f"Can these factors be told apart over the {n} organisms?",
        ["factors", "Cramer's V", "contrasts that can be told apart", "levels that go together"],
        rows,
        "Levels that go together: between these groups, whatever one factor seems to do may as "
        "well be the other's doing. The profile `deconfounded` crosses them.",
    )


def effects_table(metrics: Metrics) -> Table | None:
    """Effect of each factor with interval and p; None where no factors are named."""
    rows = []
    for measure, (heading, digits) in MEASURES.items():
        for key, found in metrics.group(FILE, f"{measure}.effect").items():
            label = f"{heading}: {key.replace('_', ' ')}"
            if "value" not in found:
                rows.append(cells(label, found["status"], "none", "none"))
                continue
            measured = metrics.measured(FILE, f"{measure}.effect.{key}")
            p, smallest = (decimals(found[name], 4) for name in ("p", "smallest_p"))
            rows.append(cells(label, with_interval(measured, "", digits), p, smallest))
    if not rows:
        return None
    return Table(
        "factorial",
        "What each factor does, all in one additive model [95 % interval]",
        ["effect", "estimate", "p", "smallest p possible"],
        rows,
        "Intervals: over prompts (angle, similarity) or questions (transfer). p: relabelling of "
        "the organisms. Each organism is one training run on one text.",
    )


def factorial_tables(metrics: Metrics) -> list[Table]:
    """Both tables, where there is something to show."""
    return [t for t in (confounding_table(metrics), effects_table(metrics)) if t is not None]
