"""Tables of transfer: the matrix of vectors and targets, groups, directions, controls."""

from __future__ import annotations

from collections.abc import Sequence

from em_geometry.report.lookup import Measured, Metrics
from em_geometry.report.tables import Cell, Table, cells, shade
from em_geometry.report.text import decimals, short, with_interval
from em_geometry.settings.params import Params

FILE = "transfer"
CONVERGENCE = "downstream_convergence"
OWN = "own"
UNDEFINED = "undefined"


def estimate_cell(measured: Measured, unit: str = "") -> Cell:
    """`12 [3, 30]` with n on hovering; `undefined` with the reason on hovering."""
    n = "" if measured.n is None else f"n = {short(measured.n)}"
    if measured.value is None:
        reason = f"{measured.status}; {n}" if n else measured.status
        return Cell(UNDEFINED if measured.status.startswith(UNDEFINED) else "none", "none", reason)
    return Cell(with_interval(measured, unit, 0), shade(measured.value), n)


def matrix(
    params: Params, metrics: Metrics, paths: Sequence[str], caption: str, note: str
) -> Table:
    """Vectors by targets; each cell is of the first of `paths` that has the pair."""
    rows = []
    for source in params.slugs("organism"):
        row = cells(source)
        for target in params.steered():
            keys = [f"{path}.{source}__{target}" for path in paths]
            known = [key for key in keys if metrics.find(FILE, key) is not None]
            absent = Cell(OWN if source == target else "none", "none")
            row.append(estimate_cell(metrics.measured(FILE, known[0])) if known else absent)
        rows.append(row)
    if not any(metrics.group(FILE, path) for path in paths):
        rows = []
    name = paths[0].rpartition(".")[2]
    return Table(f"transfer_{name}", caption, ["vector", *params.steered()], rows, note)


def transfer_tables(params: Params, metrics: Metrics) -> list[Table]:
    """All tables of the transfer section; none when nothing was measured."""
    if FILE not in metrics.files:
        return []
    tables = [
        matrix(
            params,
            metrics,
            ["risk_difference"],
            "Change of misaligned answers: target steered minus target unsteered, in percentage "
            "points [95 % interval]",
            "Rows: vectors at their chosen coefficient. Columns: targets. Hover over a cell for n.",
        ),
        matrix(
            params,
            metrics,
            ["effectiveness.e1", "effectiveness.e3"],
            "Transfer effectiveness, in percent [95 % interval] (E1 on organisms, E3 on aligned "
            "targets)",
            "Effect on the target over the vector's effect on its own model, both against the "
            "target unsteered. Undefined where the interval of the denominator includes 0: hover "
            "over a cell for the reason.",
        ),
        matrix(
            params,
            metrics,
            ["effectiveness.e2"],
            "Effect on the target over the effect of the fine-tuning itself (E2), in percent "
            "[95 % interval]",
            "Denominator: rate of the vector's own model unsteered minus that of the base.",
        ),
    ]
    tables += [_named(metrics), _groups(metrics, "lab_pair", "laboratories")]
    tables += [_groups(metrics, "cluster_pair", "clusters"), _asymmetry(metrics)]
    tables += [_conventions(metrics), _control(metrics), _convergence(metrics)]
    return [table for table in tables if table.rows]


def _convergence(metrics: Metrics) -> Table:
    rows = []
    for kind, name in (("vectors", "steering vectors"), ("random", "random directions")):
        keys = ("pairs", "middle", "end")
        pairs, middle, end = (metrics.measured(CONVERGENCE, f"{kind}.{key}") for key in keys)
        if middle.value is not None and end.value is not None:
            half, last = decimals(middle.value, 2), with_interval(end, "", 2)
            rows.append(cells(name, short(pairs.value), half, last, short(end.n)))
    return Table(
        "downstream_convergence",
        "Do orthogonal vectors come to act alike? Mean absolute cosine of the effects of two "
        "vectors, the second made orthogonal to the first [95 % interval over prompts]",
        ["pairs of", "pairs", "half-way", "last block", "prompts"],
        rows,
        "Effects on the base model's residual stream; 0 at the block where they are added. Where "
        "vectors differ from random directions, low cosine between them is no proof of separate "
        "mechanisms. Pairs share vectors, so they are not independent.",
    )


def _pair(key: str) -> str:
    return " \u2192 ".join(key.split("__"))


def _effects(metrics: Metrics, path: str) -> Sequence[Cell]:
    found = (metrics.measured(FILE, f"{path}.{kind}") for kind in ("risk_difference", "e1"))
    return [estimate_cell(measured) for measured in found]


def _named(metrics: Metrics) -> Table:
    rows = [
        [*cells(_pair(key)), *_effects(metrics, f"named_pair.{key}")]
        for key in metrics.group(FILE, "named_pair")
    ]
    header = ["vector \u2192 target", "change (points)", "effectiveness E1 (%)"]
    return Table("transfer_named", "The pairs that the paper names", header, rows)


def _groups(metrics: Metrics, name: str, kind: str) -> Table:
    rows = []
    for key in metrics.group(FILE, name):
        pairs = short(metrics.measured(FILE, f"{name}.{key}.pairs").value)
        rows.append([*cells(_pair(key), pairs), *_effects(metrics, f"{name}.{key}")])
    header = ["from \u2192 to", "pairs", "change (points)", "effectiveness E1 (%)"]
    return Table(f"transfer_{name}", f"Between {kind}, pairs pooled", header, rows)


def _asymmetry(metrics: Metrics) -> Table:
    rows = []
    for key in metrics.group(FILE, "asymmetry"):
        p, smallest = (
            metrics.measured(FILE, f"asymmetry.{key}.{name}").value for name in ("p", "smallest_p")
        )
        rows.append(
            [
                *cells(_pair(key)),
                estimate_cell(metrics.measured(FILE, f"asymmetry.{key}")),
                *cells(*("none" if v is None else decimals(v, 3) for v in (p, smallest))),
            ]
        )
    header = ["direction", "this minus the reverse (points)", "p", "smallest p possible"]
    return Table(
        "transfer_asymmetry",
        "Asymmetry of transfer between laboratories, in percentage points [95 % interval]",
        header,
        rows,
        "p: permutation of the laboratories' labels; so few models allow no p below the last "
        "column, whatever the data.",
    )


def _conventions(metrics: Metrics) -> Table:
    """Asymmetry once more, with the vectors' strengths made equal in three ways."""
    conventions = list(metrics.group(FILE, "dose_convention"))
    directions = dict.fromkeys(
        key for name in conventions for key in metrics.group(FILE, f"dose_convention.{name}")
    )
    rows = [
        [
            *cells(_pair(key)),
            *(
                estimate_cell(metrics.measured(FILE, f"dose_convention.{name}.{key}"))
                for name in conventions
            ),
        ]
        for key in directions
    ]
    return Table(
        "transfer_conventions",
        "The same asymmetry with vectors of equal strength, in percentage points [95 % interval]",
        ["direction", *(name.replace("_", " ") for name in conventions)],
        rows,
        "Equal multiple of the unit vector, equal share of the target's residual norm, and the "
        "vectors' own lengths: an asymmetry that one of them removes is one of magnitude.",
    )


def _control(metrics: Metrics) -> Table:
    rows = []
    for name in metrics.group(FILE, "control"):
        if name == "orthogonalised":
            continue
        rows.append([*cells(name), estimate_cell(metrics.measured(FILE, f"control.{name}"))])
    for key in metrics.group(FILE, "control.orthogonalised"):
        measured = metrics.measured(FILE, f"control.orthogonalised.{key}")
        label = f"{_pair(key)}, orthogonal to the target's own vector"
        rows.append([*cells(label), estimate_cell(measured)])
    for slug in metrics.group(FILE, "ablation"):
        cell = estimate_cell(metrics.measured(FILE, f"ablation.{slug}"), " %")
        rows.append([*cells(f"{slug}, own vector ablated: relative drop of the rate"), cell])
    for key in metrics.group(FILE, "ablation_pair"):
        cell = estimate_cell(metrics.measured(FILE, f"ablation_pair.{key}"), " %")
        rows.append(
            [*cells(f"{_pair(key)}, ablated in the target: relative drop of the rate"), cell]
        )
    return Table(
        "transfer_control",
        "Controls: change of misaligned answers, in percentage points [95 % interval]",
        ["control", "change"],
        rows,
        "Random directions have the norm of the vectors they stand for and are pooled over all "
        "targets.",
    )
