"""What the tests can tell: the five tests, the main statistics against chance, in plain words."""

from __future__ import annotations

from em_geometry.report.lookup import Measured, Metrics, number
from em_geometry.report.nulls import MAIN, NULLS
from em_geometry.report.tables import Table, cells
from em_geometry.report.text import NONE, decimals, short, with_interval

FILE = "calibration"
TESTS = {
    "test1": "angle between the clusters' means (degrees)",
    "test2": "largest projection on the other cluster's span",
    "test3": "reduction by removing the mean direction (%)",
    "test4": "largest over smallest change by ablating PC1",
    "test5": "largest share on the other cluster's PC1 (%)",
}
CHOICES = ("contrasts", "blocks", "per_model", "without_massive")  # keys of `survives`
PARTS = ("observed", "low", "high", "status")


def tests_table(metrics: Metrics) -> Table | None:
    """The paper's five tests: this run, the published numbers, and what they can tell."""
    if not metrics.group("geometry", "verdict"):
        return None
    rows = []
    for test, question in TESTS.items():
        same = metrics.group("geometry", f"survives.verdict_{test}")
        rows.append(
            cells(
                f"{test[-1]}: {question}",
                with_interval(metrics.measured("geometry", f"statistic.{test}"), "", 2),
                str(metrics.find("geometry", f"verdict.{test}") or NONE),
                with_interval(metrics.measured("published", f"statistic.{test}"), "", 2),
                str(metrics.find("published", f"verdict.{test}") or NONE),
                ", ".join(f"{same[k]} {k.replace('_', ' ')}" for k in CHOICES if k in same) or NONE,
                *_told(metrics, test),
            )
        )
    header = [
        "test",
        "this run [95 %]",
        "the rule says",
        "the paper's numbers",
        "the rule says",
        "same verdict under other choices",
        "by the paper's threshold",
        "by a threshold with 5 % false alarms",
    ]
    return Table(
        "tests",
        "The paper's five tests, and whether they can tell a common core from independent "
        "directions",
        header,
        rows,
        "Other choices: contrasts and spans, other blocks, each model at a block of its own, and "
        "without massive-activation dimensions. "
        "The paper's numbers: recomputed from its cosines, six of which are inferred. The last "
        "two columns come from simulated vectors with and without a common core: a test "
        "discriminates when it sees some attainable core in 80 % of draws with at most 5 % false "
        "alarms.",
    )


def _told(metrics: Metrics, test: str) -> list[str]:
    found = metrics.group(FILE, f"power.{test}")
    if not found:
        return ["not calibrated in this run"] * 2
    if isinstance(found.get("status"), str):
        return [found["status"]] * 2
    threshold = number(found.get("threshold_5pct"))
    strict = f"{found.get('verdict_5pct', NONE)} (threshold {short(threshold)})"
    return [str(found.get("verdict_paper", NONE)), strict]


def nulls_table(metrics: Metrics) -> Table | None:
    """The main statistics with their bootstrap intervals and nulls."""
    rows = []
    for key in _statistics(metrics):
        path = f"statistic.{key}"
        row = [key.removeprefix("statistic."), with_interval(observed(metrics, path), "", 3)]
        for null in NULLS:
            entry = metrics.group(FILE, f"{path}.{null}")
            low, high, p = (number(entry.get(part)) for part in ("low", "high", "p"))
            row += [f"{short(low)} to {short(high)}", NONE if p is None else decimals(p, 4)]
        entry = metrics.group(FILE, f"{path}.partitions")
        p, smallest = number(entry.get("p")), number(entry.get("smallest_p"))
        row.append(
            NONE if p is None or smallest is None else f"{decimals(p, 3)} ({decimals(smallest, 3)})"
        )
        rows.append(cells(*row))
    header = ["statistic", "observed [95 %]"]
    for label in NULLS.values():
        header += [label, "p"]
    header.append("cluster labels exchanged: p (smallest possible)")
    caption = "Main statistics against chance (95 % ranges of the nulls)"
    return Table("nulls", caption, header, rows) if rows else None


def _statistics(metrics: Metrics) -> list[str]:
    """Dotted keys of the main statistics, in the file's order."""
    found: list[str] = []

    def walk(path: str) -> None:
        group = metrics.group(FILE, f"statistic.{path}" if path else "statistic")
        if "observed" in group:
            found.append(path)
            return
        for name in group:
            walk(f"{path}.{name}" if path else name)

    walk("")
    return [key for key in found if key.startswith(MAIN)]


def observed(metrics: Metrics, path: str) -> Measured:
    """The observed value at `path` of the calibration, with its bootstrap interval."""
    entry = metrics.group(FILE, path)
    value, low, high = (number(entry.get(part)) for part in PARTS[:3])
    status = entry.get("status")
    return Measured(value, low, high, status=status if isinstance(status, str) else "not measured")


def story(metrics: Metrics) -> list[str]:
    """The calibration in plain words, built from its numbers; empty without one."""
    power = metrics.group(FILE, "power")
    largest, none, most = (
        number(power.get(k)) for k in ("largest_share", "all_five_at_zero", "all_five_at_largest")
    )
    said = []
    if largest is not None and none is not None and most is not None:
        said.append(
            f"In simulations with clusters as tight as the observed ones, all five tests say "
            f"independent in {decimals(100 * none, 0)} % of draws without a common core, and in "
            f"{decimals(100 * most, 0)} % of draws with the largest core that such clusters can "
            f"hold ({decimals(100 * largest, 0)} % of the variance): the closer the two numbers, "
            "the less five verdicts mean."
        )
    core = observed(metrics, "core")
    high = number(metrics.find(FILE, "core.null_high"))
    if core.value is not None and high is not None:
        above = "above" if core.value > high else "within"
        said.append(
            f"The share of variance that vectors of different clusters have in common is "
            f"{with_interval(core, '', 3)}, {above} what independent directions of the same "
            f"covariance reach (up to {decimals(high, 3)})."
        )
    effective = number(metrics.find(FILE, "effective_dimension.covariance"))
    width = number(metrics.find(FILE, "width"))
    if effective is not None and width is not None:
        said.append(
            f"The differences spread over an effective dimension of {decimals(effective, 1)} of "
            f"{decimals(width, 0)}, which is what decides how close to a right angle chance "
            "comes."
        )
    return [*said, *_published(metrics), *_seeds(metrics)]


def _published(metrics: Metrics) -> list[str]:
    """The paper's own cosines against chance, at full width and at the dimension that fits."""
    cross = metrics.group("published", "calibration.statistic.similarity.cross_mean")
    full, needed = (
        number(
            metrics.group("published", f"calibration.statistic.similarity.cross_mean.{k}").get("p")
        )
        for k in ("no_core_full_width", "no_core_at_dimension_needed")
    )
    value = number(cross.get("observed"))
    if value is None or full is None or needed is None:
        return []
    return [
        f"The paper's own vectors have a mean cosine of {decimals(value, 3)} across clusters. "
        f"Independent directions spread over all dimensions of the residual stream reach that far "
        f"with p = {decimals(full, 4)}; over so few dimensions that its angles are ordinary, with "
        f"p = {decimals(needed, 2)}: what the angles say hangs on an effective dimension that was "
        "not reported."
    ]


def _seeds(metrics: Metrics) -> list[str]:
    """How far the angle moves when organisms are trained again (`make seeds`)."""
    said = []
    for pair, entry in metrics.group("seeds", "angle_deg").items():
        mean, low, high, n = (number(entry.get(k)) for k in ("mean", "lowest", "highest", "n"))
        if mean is not None and low is not None and high is not None and n is not None:
            names = " and ".join(pair.split("__"))
            said.append(
                f"Trained again with other seeds (`make seeds`, n = {n:.0f} pairs), the angle "
                f"between {names} is {decimals(mean, 1)}\u00b0 on average, from "
                f"{decimals(low, 1)} to {decimals(high, 1)}; the paper guesses 85 to 115."
            )
    return said
