"""How the main numbers depend on choices: contrast and span, block, dimensions (docs/method.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from em_geometry.geometry.battery import Clusters, battery
from em_geometry.geometry.methods import TESTS, unit_gram
from em_geometry.io.results import Leaf
from em_geometry.settings import Geometry
from em_geometry.stats.arrays import Floats, Ints
from em_geometry.stats.estimate import Estimate

LAYER, PER_MODEL, NO_MASSIVE = "layer.", "per_model", "without_massive"  # names of choices
ANGLE, DEGREES = "cluster_angle.", "_deg"
MAIN = (
    ANGLE,
    "verdict.",
    "similarity.cross_mean",
    "similarity.within_mean",
    "clusters.silhouette_k",
)
CONCLUSIONS = (*(f"verdict.{test}" for test in TESTS), "clusters.silhouette_k")
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


def survives(chosen: Numbers, kinds: Mapping[str, Sequence[Numbers]]) -> dict[str, Leaf]:
    """For each conclusion, in how many of the choices of a kind it comes out the same.

    Args:
        chosen: flat battery of the vectors that the conclusions are about.
        kinds: kind of choice -> numbers under each.
    """
    results: dict[str, Leaf] = {}
    for key in CONCLUSIONS:
        name = f"survives.{key.replace('.', '_')}"
        results[f"{name}.selected"] = chosen[key]
        for kind, group in kinds.items():
            same = sum(numbers[key] == chosen[key] for numbers in group)
            results[f"{name}.{kind}"] = Estimate(same, n=len(group))
    return results


def kinds_of(choices: Mapping[str, Numbers]) -> dict[str, list[Numbers]]:
    """The defined choices: contrasts with spans, blocks, and each other choice by itself."""
    kinds: dict[str, list[Numbers]] = {}
    for choice, numbers in choices.items():
        if "status" not in numbers:
            kind = "blocks" if choice.startswith(LAYER) else choice
            kinds.setdefault("contrasts" if "." in kind else kind, []).append(numbers)
    return kinds


def sensitivity(choices: Mapping[str, Numbers]) -> dict[str, Leaf]:
    """Main numbers under every choice but the blocks, which have a table of their own."""
    return {
        f"sensitivity.{choice}" + ("" if key == "status" else f".{key}"): value
        for choice, numbers in choices.items()
        if not choice.startswith(LAYER)
        for key, value in numbers.items()
    }


def trace_table(choices: Mapping[str, Numbers]) -> Table:
    """Cluster angles by block; empty where undefined."""
    keys = [key for key in choices[NO_MASSIVE] if key.startswith(ANGLE)]
    rows: list[list[object]] = [
        [choice.removeprefix(LAYER), *(numbers.get(key, "") for key in keys)]
        for choice, numbers in choices.items()
        if choice.startswith(LAYER)
    ]
    return ["layer", *(k.removeprefix(ANGLE).removesuffix(DEGREES) for k in keys)], rows


def choices_table(choices: Mapping[str, Numbers]) -> Table:
    """Main numbers by choice, and why there are none."""
    columns = [key for key in choices[NO_MASSIVE] if key != "status"]
    rows: list[list[object]] = [
        [choice, *(numbers.get(c, "") for c in columns), numbers.get("status", "ok")]
        for choice, numbers in choices.items()
    ]
    return ["choice", *columns, "status"], rows
