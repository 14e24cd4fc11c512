"""Stage `paper_reference`: the battery on the published cosines, and every claim recomputed.

    python -m em_geometry.claims.published --table

Writes metrics/published.json: the battery's keys for the representative Gram matrix, the range
of each over the roundings and the fitted family (`low`, `high`), and a verdict for each claim. A
claim that needs unpublished cosines is marked `fitted cosines`; its range is an inner estimate.
`calibration` has every statistic across clusters with its nulls, and says which of the five tests
can tell a common core from none when clusters are as tight as the published ones; its curves are
in plots/power_published.csv.
"""

from __future__ import annotations

import difflib
import textwrap
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from em_geometry.claims.derived import DERIVED, WIDTH, Inputs
from em_geometry.claims.ledger import CLAIMS, Claim, read_claims
from em_geometry.claims.printed_gram import PublishedGram, read_family, read_published_gram
from em_geometry.errors import UserError
from em_geometry.geometry import power
from em_geometry.geometry.battery import battery, cluster_indices
from em_geometry.geometry.calibration import CORE, LABELLED, calibrated, relabelled, table_row
from em_geometry.geometry.core_model import core_grams
from em_geometry.geometry.gram import Floats
from em_geometry.geometry.resampling import stream
from em_geometry.geometry.result import Battery
from em_geometry.geometry.table import QUESTIONS, csv_text, text_table
from em_geometry.geometry.verdict import TESTS
from em_geometry.io.files import nest, write_metrics, write_text
from em_geometry.settings.sections import Geometry

METRICS, PLOT = Path("metrics/published.json"), Path("plots/power_published.csv")
DRAWS, SEED = 4000, 0  # of the power simulations at each share of a common core
SHOWN = 62  # characters of a quantity in the table
EDGES = ("low", "high")
DIMENSIONS = ("full_width", "at_dimension_needed")
FAIR = {"mean cosine across clusters": "similarity.cross_mean", "share of a common core": CORE}


@dataclass(frozen=True)
class Recomputed:
    """One number of a claim, recomputed: from printed central values, and its range."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Judged:
    """A claim with what the published inputs say about it.

    Attributes:
        parts: recomputed numbers; empty where nothing can be recomputed.
        basis: what they were computed from, or `reading`.
        verdict: computed from the parts; that of the ledger where there are none.
    """

    claim: Claim
    parts: tuple[Recomputed, ...]
    basis: str
    verdict: str


def judge_all(claims: Sequence[Claim], gram: PublishedGram, family: Floats) -> list[Judged]:
    """Every claim against the paper's other numbers.

    Args:
        family: [m, 6, 6] cosines that reproduce what needs all six vectors.
    Raises:
        UserError: a claim's subgram holds a cosine that is not printed.
    """
    printed = {claim.id: claim.numbers for claim in claims}
    half = {claim.id: claim.tolerance for claim in claims}
    values: dict[tuple[str, ...], Mapping[str, Floats]] = {(): {}}
    judged = []
    for claim in claims:
        how = claim.published
        if how is None:
            judged.append(Judged(claim, (), "reading", claim.verdict))
            continue
        names = tuple(gram.names if how.fitted else how.subgram or ())
        _known(claim, names, gram.names)
        if names not in values:
            grams = family if how.fitted else gram.roundings(names)
            values[names] = _battery(gram, names, grams).values
        if how.derived is not None:
            try:
                found = DERIVED[how.derived](Inputs(values[names], gram, printed, half))
            except (KeyError, IndexError, ValueError) as error:
                raise UserError(
                    f"claim {claim.id} asks for what its inputs do not give",
                    where=f"{CLAIMS}: {claim.id}.published",
                    found=f"{how.derived} without {error}",
                    expected=f"what {how.derived} of em_geometry/claims/derived.py reads",
                ) from None
        else:
            keys = how.keys or [metric.partition(":")[2] for metric in claim.metrics]
            _known(claim, keys, values[names])
            found = [values[names][key] for key in keys]
        parts = tuple(_recomputed(array) for array in found)
        agree = all(claim.agrees(i, part.low, part.high) for i, part in enumerate(parts))
        # a fit that misses settles nothing: other assumptions might reach the number
        missed = "underdetermined" if how.fitted else "inconsistent"
        judged.append(Judged(claim, parts, how.basis, "reproduced" if agree else missed))
    return judged


def _known(claim: Claim, wanted: Iterable[str], known: Collection[str]) -> None:
    """Raises UserError unless a claim asks for what there is."""
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or [*known][:6]
            raise UserError(
                f"claim {claim.id} asks for what its inputs do not give",
                where=f"{CLAIMS}: {claim.id}.published",
                found=name,
                expected="such as " + ", ".join(near),
            )


def _battery(gram: PublishedGram, names: Sequence[str], grams: Floats) -> Battery:
    clusters = gram.clusters_of(names)
    focus = [c for c in Geometry().focus if c in clusters]
    return battery(grams, names, clusters, Geometry(focus=focus if len(focus) == 2 else []))


def _recomputed(array: Floats) -> Recomputed:
    """The first entry is the central one; arithmetic gives its two ends instead."""
    flat = np.atleast_1d(array)
    middle = float(flat.mean()) if flat.size == 2 else float(flat[0])
    return Recomputed(middle, float(flat.min()), float(flat.max()))


def metrics_of(judged: Sequence[Judged], gram: PublishedGram, family: Floats) -> dict[str, Any]:
    """The content of metrics/published.json."""
    representative = _battery(gram, gram.names, gram.fitted())
    members = _battery(gram, gram.names, family).values
    metrics: dict[str, Any] = representative.metrics()
    ranges = {key: _extremes(values) for key, values in members.items()}
    for side in EDGES:
        metrics[side] = nest({key: r[side] for key, r in ranges.items() if r})
    metrics["claims"] = {j.claim.id: _claim_metrics(j) for j in judged}
    metrics["summary"] = {
        basis: dict(Counter(j.verdict for j in judged if j.basis == basis))
        for basis in dict.fromkeys(j.basis for j in judged)
    }
    metrics["family_members"] = len(family)
    return metrics


def calibration_of(gram: PublishedGram, family: Floats) -> tuple[dict[str, Any], power.Sweep]:
    """What the published cosines can tell, when clusters are as tight as they are.

    Nulls and power are simulated at the full width of the residual stream, and at the effective
    dimension up to which the angle of test 1 is no evidence against independence: without the
    activations the true one is unknown. Ranges are those of the fitted family.
    """
    fitted, rules, clusters = gram.fitted(), Geometry(), gram.clusters
    members = cluster_indices(gram.names, clusters)
    tightness = power.tightness_of(fitted, members)
    needed = power.dimensions_needed(fitted, members)
    least = needed["__".join(c for c in members if c in rules.focus)]
    dimensions = dict(zip(DIMENSIONS, (WIDTH, round(float(least))), strict=True))

    def found(grams: Floats) -> dict[str, Floats]:
        return calibrated(grams, gram.names, clusters, rules)

    def rng(name: str) -> np.random.Generator:
        return stream(SEED, "published", name)

    simulated = {
        name: (rng(f"null.{name}"), DRAWS, dimension, members, tightness, 0.0, len(fitted))
        for name, dimension in dimensions.items()
    }
    nulls = {f"no_core_{name}": found(core_grams(*how)) for name, how in simulated.items()}
    moved = found(relabelled(fitted, members, DRAWS, rng("partitions")))
    ranges = found(family)
    table = {
        key: table_row(key, value, _extremes(ranges[key]), nulls, moved)
        for key, value in found(fitted).items()
        if key.startswith((*LABELLED, CORE))
    }
    sweeps = {
        name: power.sweep(rng(name), DRAWS, d, len(fitted), members, tightness, rules)
        for name, d in dimensions.items()
    }
    metrics: dict[str, Any] = {"dimension_needed": needed, "statistic": nest(table)}
    metrics |= {f"power_{name}": power.verdicts_of(sweep) for name, sweep in sweeps.items()}
    return metrics, sweeps["full_width"]


def _extremes(values: Floats) -> dict[str, float]:
    """Lowest and highest of values that are all defined."""
    if not np.isfinite(values).all():
        return {}
    return {"low": float(values.min()), "high": float(values.max())}


def _claim_metrics(judged: Judged) -> dict[str, Any]:
    numbers = judged.claim.numbers
    found: dict[str, Any] = {"verdict": judged.verdict, "basis": judged.basis}
    if judged.claim.reads == "between":
        found["printed"] = dict(zip(EDGES, numbers, strict=True))
    elif numbers:
        found["printed"] = _by_part(numbers)
    if judged.parts:
        found["recomputed"] = _by_part([vars(part) for part in judged.parts])
    return found


def _by_part(parts: Sequence[Any]) -> Any:
    """The only part of a claim, or its parts by number."""
    return parts[0] if len(parts) == 1 else {str(i): p for i, p in enumerate(parts, start=1)}


def claims_table(judged: Sequence[Judged]) -> str:
    """All claims for people: printed, recomputed with its range, verdict."""
    rows = []
    for j in judged:
        claim, parts = j.claim, "; ".join(_range(part) for part in j.parts)
        shown = textwrap.shorten(claim.quantity, SHOWN, placeholder=" ...")
        rows.append([claim.id, shown, claim.text, parts, j.basis, j.verdict])
    header = ["claim", "quantity", "printed", "follows from the paper", "basis", "verdict"]
    counts = Counter(j.verdict for j in judged)
    lines = [text_table(header, rows), ""]
    lines.append("; ".join(f"{n} {verdict}" for verdict, n in counts.most_common()))
    lines += ["", "What the published numbers cannot settle (hypotheses, not facts):"]
    lines += [f"  {j.claim.id}: {text}" for j in judged for text in j.claim.hypotheses]
    return "\n".join(lines)


def _range(part: Recomputed) -> str:
    if part.high - part.low < 1e-9:
        return f"{part.value:.4g}"
    return f"{part.value:.4g} [{part.low:.4g}, {part.high:.4g}]"


def calibration_table(calibration: Mapping[str, Any]) -> str:
    """Which tests can tell a common core from none, and what the fair statistics say."""
    found = calibration["power_full_width"]
    keys = ("verdict_paper", "smallest_share_paper", "verdict_5pct", "smallest_share_5pct")
    tests = [[test, QUESTIONS[test], *(found[test][key] for key in keys)] for test in TESTS]
    header = ["", "statistic", "paper's threshold", "from share", "5 % false alarms", "from share"]
    rows = []
    for name, key in FAIR.items():
        group, _, last = key.partition(".")
        row = calibration["statistic"][group][last]
        known = Recomputed(row["observed"], row["low"], row["high"])
        rows.append([name, _range(known), *(row[f"no_core_{d}"]["p"] for d in DIMENSIONS)])
    least = calibration["dimension_needed"]["medical__persona"]
    return (
        "Can a test tell a common core from none, when clusters are as tight as the published\n"
        f"ones (simulated in {WIDTH} dimensions; shares up to {found['largest_share']:.2g})?\n\n"
        + text_table(header, tests)
        + "\n\nWhat can, on the fitted cosines [range of the fits]; p without a common core:\n\n"
        + text_table(
            ["", "value", f"p in {WIDTH} dimensions", f"p in {least:.0f} dimensions"], rows
        )
    )


def main() -> tuple[list[Judged], dict[str, Any]]:
    """Writes metrics and plot; returns the judged claims and the calibration."""
    gram = read_published_gram()
    family = read_family(gram)
    judged = judge_all(read_claims(), gram, family)
    calibration, sweep = calibration_of(gram, family)
    write_metrics(METRICS, metrics_of(judged, gram, family) | {"calibration": calibration})
    write_text(PLOT, csv_text(*power.curves(sweep)))
    return judged, calibration


def cli(
    table: Annotated[bool, typer.Option("--table", help="Print the table of claims.")] = False,
) -> None:
    """Recompute the paper's claims from its own published numbers."""
    judged, calibration = main()
    if table:
        print(claims_table(judged), calibration_table(calibration), sep="\n\n")
