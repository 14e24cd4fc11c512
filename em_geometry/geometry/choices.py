"""How the main numbers depend on the contrast and its span (docs/method.md: contrasts)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from em_geometry.geometry.battery import Clusters, battery
from em_geometry.geometry.methods import unit_gram
from em_geometry.io.results import Leaf
from em_geometry.settings import Geometry
from em_geometry.stats.arrays import Floats, Ints

MAIN = (
    "cluster_angle.",
    "verdict.",
    "similarity.cross_mean",
    "similarity.within_mean",
    "clusters.silhouette_k",
)
Numbers: TypeAlias = Mapping[str, float | int | str]
Table: TypeAlias = tuple[list[str], list[list[object]]]  # header and rows


def main_numbers(
    vectors: Floats | str, names: Sequence[str], clusters: Clusters, rules: Geometry
) -> Numbers:
    """Main numbers of vectors [n, width]; only a `status` where there are none, and why."""
    if isinstance(vectors, str):
        return {"status": vectors}
    flat = battery(unit_gram(vectors), clusters, rules, names=names).flat()
    return {key: value for key, value in flat.items() if key.startswith(MAIN)}


def massive_dimensions(rows: Floats, share: float) -> Ints:
    """The `share` of dimensions with the largest mean magnitude over rows [m, width]."""
    order = np.argsort(-np.abs(rows).mean(0), kind="stable")
    return order[: round(share * rows.shape[-1])]


def sensitivity(choices: Mapping[str, Numbers]) -> dict[str, Leaf]:
    """Main numbers under every choice."""
    return {
        f"sensitivity.{choice}" + ("" if key == "status" else f".{key}"): value
        for choice, numbers in choices.items()
        for key, value in numbers.items()
    }


def choices_table(choices: Mapping[str, Numbers]) -> Table:
    """Main numbers by choice, and why there are none."""
    every = (key for numbers in choices.values() for key in numbers)
    columns = [key for key in dict.fromkeys(every) if key != "status"]
    rows: list[list[object]] = [
        [choice, *(numbers.get(c, "") for c in columns), numbers.get("status", "ok")]
        for choice, numbers in choices.items()
    ]
    return ["choice", *columns, "status"], rows
