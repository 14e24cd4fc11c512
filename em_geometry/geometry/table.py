"""The battery's results as text for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from em_geometry.geometry.verdict import TESTS
from em_geometry.io.tables import text_table

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
