"""The battery's results as text for people."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from em_geometry.geometry.verdict import TESTS

QUESTIONS = {
    "test1": "angle between clusters, deg",
    "test2": "largest projection on the other's span",
    "test3": "reduction by removing the mean, %",
    "test4": "largest / smallest change by ablating PC1",
    "test5": "largest share on the other's PC1, %",
}
TRIPLET = ("residual.", ".reduction_pct")
COLUMNS = {
    "planar error": "triangle.{}.error_deg",
    "volume": "triangle.{}.volume",
    "reduction %": "residual.{}.reduction_pct",
    "mean drop": "residual.{}.mean_drop",
    "rank 1 r": "subspace.{}.rank1_r_full",
    "off-diag.": "subspace.{}.rank1_r_offdiag",
}
SHOWN = (
    "cluster_angle.",
    "orthogonality.",
    "cross_variance.",
    "pc1_ablation.",
    "pca.",
    "clusters.",
)


def text_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns; numbers with four significant digits, on the right."""
    cells = [list(header)] + [[_show(value) for value in row] for row in rows]
    widths = [max(len(row[c]) for row in cells) for c in range(len(header))]
    right = [any(isinstance(row[c], int | float) for row in rows) for c in range(len(header))]
    lines = [
        "  ".join(
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV with six significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row])
    return text.getvalue()


def _show(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.3g}"
    return str(value)


def battery_table(names: Sequence[str], flat: Mapping[str, float | int | str]) -> str:
    """Verdicts, cosines, cluster tests and triplets of one Gram matrix."""
    cosine: list[list[object]] = [
        [a]
        + [
            1.0 if i == j else flat[f"cosine.{names[min(i, j)]}__{names[max(i, j)]}"]
            for j in range(len(names))
        ]
        for i, a in enumerate(names)
    ]
    verdicts = [
        [test, QUESTIONS[test], flat[f"statistic.{test}"], flat[f"verdict.{test}"]]
        for test in TESTS
    ]
    start, end = TRIPLET
    triplets = [k[len(start) : -len(end)] for k in flat if k.startswith(start) and k.endswith(end)]
    shown = [[key, value] for key, value in flat.items() if key.startswith(SHOWN)]
    return "\n\n".join(
        [
            text_table(["", *names], cosine),
            text_table(["", "statistic", "value", "the paper's rule says"], verdicts)
            + f"\nfor independence: {flat['verdict.count']}",
            text_table(["statistic", "value"], shown),
            text_table(
                ["triplet", *COLUMNS],
                [[t, *(flat[key.format(t)] for key in COLUMNS.values())] for t in triplets],
            ),
        ]
    )
