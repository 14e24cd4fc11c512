"""The paper audited on its own numbers: the battery on its cosines, and every claim recomputed.

The battery is taken at a representative Gram matrix; ranges are those over the roundings and the
fitted family. A claim that needs unpublished cosines is marked `fitted cosines`; its range is an
inner estimate.
"""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from em_geometry.claims.derived import DERIVED, RULES, WIDTH, Inputs
from em_geometry.claims.ledger import Claim
from em_geometry.claims.printed_gram import PublishedGram
from em_geometry.errors import explained
from em_geometry.geometry import core
from em_geometry.geometry.battery import Battery, battery
from em_geometry.geometry.calibration import CORE, LABELLED, calibrated, compared, relabelled
from em_geometry.geometry.methods import QUESTIONS
from em_geometry.geometry.vector_sets import cluster_indices
from em_geometry.hashing import stream
from em_geometry.io.results import Leaf, as_estimate
from em_geometry.io.tables import LINE, text_table
from em_geometry.settings import Geometry
from em_geometry.stats.estimate import Estimate, Floats

DRAWS, SEED = 4000, 0  # of the power simulations at each share of a common core
DIMENSIONS = ("full_width", "at_dimension_needed")
FAIR = {
    "mean cosine across clusters": "calibration.statistic.similarity.cross_mean",
    "share of a common core": f"calibration.statistic.{CORE}",
}
HEADLINE = ("verdict.count", "summary.printed.*.inconsistent")


@dataclass(frozen=True)
class Audited:
    """A claim with what the published inputs say about it."""

    claim: Claim
    parts: tuple[Estimate, ...]  # recomputed numbers, each with its range, where there are any
    basis: str  # what they were computed from, or `reading`
    verdict: str  # computed from the parts; that of the ledger where there are none


def audit(claims: Sequence[Claim], gram: PublishedGram, family: Floats) -> list[Audited]:
    """Every claim against the paper's other numbers.

    Args:
        family: [m, 6, 6] cosines that reproduce what needs all six vectors.
    Raises:
        UserError: a claim's subgram holds a cosine that is not printed.
    """
    printed = {claim.id: claim.numbers for claim in claims}
    half = {claim.id: claim.tolerance for claim in claims}
    values: dict[tuple[str, ...], Mapping[str, Floats]] = {(): {}}
    audited = []
    for claim in claims:
        how = claim.published
        if how is None or how.of is not None:
            audited.append(recounted(claim))
            continue
        names = tuple(gram.names if how.fitted else how.subgram or ())
        what = f"claim {claim.id} asks for what its inputs do not give"
        where = f"ledger of the paper: {claim.id}.published"
        with explained(what, where, f"{how.derived or 'keys'} of {', '.join(names) or 'no names'}"):
            if names not in values:
                grams = family if how.fitted else gram.roundings(names)
                values[names] = _battery(gram, names, grams).values
            arrays = _recomputed(claim, Inputs(values[names], gram, printed, half))
        agree = all(claim.agrees(i, float(a.min()), float(a.max())) for i, a in enumerate(arrays))
        # a fit that misses settles nothing: other assumptions might reach the number
        missed = "underdetermined" if how.fitted else "inconsistent"
        parts = tuple(map(_ranged, arrays))
        audited.append(Audited(claim, parts, how.basis, "reproduced" if agree else missed))
    return audited


def recounted(claim: Claim) -> Audited:
    """A claim that needs no cosines: by the counts that its percentage is of, or by reading.

    A percentage that no whole number of so many gives contradicts itself. One that some number
    gives follows where that number is printed too; else the paper alone cannot tell.
    """
    how = claim.published
    if how is None or how.of is None:
        return Audited(claim, (), "reading", claim.verdict)
    count = round(claim.numbers[0] * how.of / 100) if how.count is None else how.count
    share = 100.0 * count / how.of
    possible = "underdetermined" if how.count is None else "reproduced"
    verdict = possible if claim.agrees(0, share, share) else "inconsistent"
    return Audited(claim, (Estimate(share, share, share),), how.basis, verdict)


def _recomputed(claim: Claim, inputs: Inputs) -> list[Floats]:
    """Arrays over roundings, one a number of the claim."""
    how = claim.published
    if how is None or how.derived is None:
        keys = (how and how.keys) or [metric.partition(":")[2] for metric in claim.metrics]
        found: Floats | list[Floats] = [inputs.values[key] for key in keys]
    else:
        found = DERIVED[how.derived](inputs)
    return [np.atleast_1d(array) for array in (found if isinstance(found, list) else [found])]


def _battery(gram: PublishedGram, names: Sequence[str], grams: Floats) -> Battery:
    clusters = gram.clusters_of(names)
    focus = [c for c in RULES.focus if c in clusters]
    rules = Geometry(focus=focus if len(focus) == 2 else [])
    return battery(grams, clusters, rules, names=names)


def _ranged(array: Floats) -> Estimate:
    """The first entry is the central one; arithmetic gives its two ends instead."""
    middle = float(array.mean() if array.size == 2 else array[0])
    return Estimate(middle, float(array.min()), float(array.max()))


def published_results(
    audited: Sequence[Audited], gram: PublishedGram, family: Floats
) -> dict[str, Leaf]:
    """The battery's statistics with their range over the family, and the claims, by dotted key."""
    members = _battery(gram, gram.names, family).values
    rows: dict[str, Leaf] = dict(_battery(gram, gram.names, gram.fitted()).flat())
    for key, value in rows.items():
        if not isinstance(value, str) and np.isfinite(members[key]).all():
            low, high = float(members[key].min()), float(members[key].max())
            rows[key] = Estimate(as_estimate(value).value, low, high)
    rows |= audit_results(audited)
    kinds = Counter((a.claim.source, a.basis, a.verdict) for a in audited)
    for kind, count in kinds.items():
        rows["summary." + ".".join(kind).replace(" ", "_")] = count
    return rows | {"family_members": len(family)}


def audit_results(audited: Sequence[Audited]) -> dict[str, Leaf]:
    """What was found of each claim, by dotted key."""
    rows: dict[str, Leaf] = {}
    for a in audited:
        key = f"claims.{a.claim.id}"
        rows |= {f"{key}.verdict": a.verdict, f"{key}.basis": a.basis}
        for i, part in enumerate(a.parts, start=1):
            rows[f"{key}.recomputed.{i}" if len(a.parts) > 1 else f"{key}.recomputed"] = part
    return rows


def calibration_of(gram: PublishedGram, family: Floats) -> tuple[dict[str, Leaf], core.Sweep]:
    """What the published cosines can tell, when clusters are as tight as they are.

    Nulls and power are simulated at the full width of the residual stream, nulls also at the
    effective dimension up to which the angle of test 1 is no evidence against independence: without
    the activations the true one is unknown. Ranges are those of the fitted family.

    Returns:
        results by dotted key, and the power curves at full width.
    """
    fitted, members = gram.fitted(), cluster_indices(gram.names, gram.clusters)
    needed = core.dimensions_needed(fitted, members)
    least = as_estimate(needed["__".join(c for c in members if c in RULES.focus)]).value
    dimensions = dict(zip(DIMENSIONS, (WIDTH, round(least or WIDTH)), strict=True))
    no_core = core.core_weights(len(fitted), members, core.tightness_of(fitted, members), 0.0)

    def statistics(grams: Floats) -> dict[str, Floats]:
        found = calibrated(grams, gram.names, members, RULES)
        return {key: value for key, value in found.items() if key.startswith((*LABELLED, CORE))}

    def rng(name: str) -> np.random.Generator:
        return stream(SEED, "published", name)

    nulls = {
        f"no_core_{name}": statistics(
            core.core_grams(rng(f"null.{name}"), DRAWS, dimension, no_core)
        )
        for name, dimension in dimensions.items()
    }
    moved = statistics(relabelled(fitted, members, DRAWS, rng("partitions")))
    ranges = statistics(family)
    observed = {  # NaN where a member of the family does not define it
        key: Estimate.from_values(float(value), float(ranges[key].min()), float(ranges[key].max()))
        for key, value in statistics(fitted).items()
    }
    sweep = core.sweep(rng("full_width"), DRAWS, WIDTH, fitted, members, RULES)
    results: dict[str, Leaf] = {f"dimension_needed.{pair}": leaf for pair, leaf in needed.items()}
    results |= compared(observed, nulls, moved)
    results |= {f"power_full_width.{key}": leaf for key, leaf in core.verdicts_of(sweep).items()}
    return {f"calibration.{key}": leaf for key, leaf in results.items()}, sweep


def claims_table(audited: Sequence[Audited]) -> str:
    """All claims for people: printed, recomputed with its range, verdict."""
    rows = []
    for a in audited:
        parts = "; ".join(_shown(part) for part in a.parts)
        rows.append([a.claim.id, a.claim.quantity, a.claim.text, parts, a.basis, a.verdict])
    header = ["claim", "quantity", "printed", "follows from the paper", "basis", "verdict"]
    lines = [text_table(header, rows, LINE), ""]
    for source, what in (("printed", "printed"), ("ours", "ours, which the paper does not print")):
        counts = Counter(a.verdict for a in audited if a.claim.source == source)
        words = "; ".join(f"{n} {verdict}" for verdict, n in counts.most_common())
        lines.append(f"{counts.total()} {what}: {words}")
    lines += ["", "What the published numbers cannot settle (hypotheses, not facts):"]
    said = [f"  {a.claim.id}: {text}" for a in audited for text in a.claim.hypotheses]
    lines += [textwrap.fill(each, LINE, subsequent_indent=" " * 8) for each in said]
    return "\n".join(lines)


def _shown(leaf: Leaf) -> str:
    part = as_estimate(leaf)
    if part.low is None or part.high is None or part.high - part.low < 1e-9:
        return f"{part.value:.4g}"
    return f"{part.value:.4g} [{part.low:.4g}, {part.high:.4g}]"


def calibration_table(found: Mapping[str, Leaf]) -> str:
    """Which tests can tell a common core from none, and what the fair statistics say.

    Args:
        found: as `calibration_of` returns it.
    """
    power = "calibration.power_full_width"
    keys = ("verdict_paper", "smallest_share_paper", "verdict_5pct", "smallest_share_5pct")
    tests = [
        [test, question, *(found[f"{power}.{test}.{key}"] for key in keys)]
        for test, question in QUESTIONS.items()
    ]
    header = ["", "statistic", "paper's threshold", "from share", "5 % false alarms", "from share"]
    rows = [
        [name, _shown(found[at]), *(found[f"{at}.no_core_{d}.p"] for d in DIMENSIONS)]
        for name, at in FAIR.items()
    ]
    least = found["calibration.dimension_needed.medical__persona"]
    chance = ["", "value", f"p in {WIDTH} dimensions", f"p in {least:.0f} dimensions"]
    largest = found[f"{power}.largest_share"]
    return (
        "Can a test tell a common core from none, when clusters are as tight as the published\n"
        f"ones (simulated in {WIDTH} dimensions; shares up to {largest:.2g})?\n\n"
        + text_table(header, tests, LINE)
        + "\n\nWhat can, on the fitted cosines [range of the fits]; p without a common core:\n\n"
        + text_table(chance, rows, LINE)
    )
