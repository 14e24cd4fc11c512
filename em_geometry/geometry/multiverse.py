"""The same vectors under every choice that could have been made: a multiverse of cells.

A cell is a reference, a span of tokens, a block, and whether dimensions of massive activations
count (docs/method.md: references). One number without its cell says little, so each conclusion of
the paper is given as the share of cells in which it holds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from em_geometry.geometry.methods import Members
from em_geometry.geometry.references import (
    REFERENCES,
    Finetunes,
    conclusions,
    gram_under,
    holds,
    main_statistics,
)
from em_geometry.io.results import Leaf
from em_geometry.settings import Geometry
from em_geometry.stats.estimate import Estimate, Floats, Ints

WITH, WITHOUT = "with", "without"  # massive dimensions
NO_SHIFT = "undefined: a model is not shifted at this block"
SHOWN = {"angle_deg": "test1", "cross_mean": "cross_mean"}  # column -> statistic


@dataclass(frozen=True)
class Reading:
    """The shifts of all models on one span at one block."""

    span: str
    block: int
    shifts: Floats  # [model, width] mean activations minus the base's
    massive: Ints  # dimensions of massive activations of the base there


def multiverse(
    family: Finetunes, readings: Iterable[Reading], members: Members, rules: Geometry
) -> tuple[list[str], list[list[object]], dict[str, Leaf]]:
    """Header and rows of plots/multiverse.csv, and the shares of cells in which conclusions hold.

    A row is a cell; the lowest and highest values are over all trainings of the models.
    """
    names, claims = family.organisms, [*conclusions(rules)]
    header = ["reference", "span", "block", "massive_dimensions"]
    header += [f"{c}{end}" for c in SHOWN for end in ("", "_lowest", "_highest")]
    header += [*claims, "status"]
    rows: list[list[object]] = []
    held: list[Floats] = []  # [conclusion, training] of each defined cell
    weights = {reference: family.weights(reference) for reference in REFERENCES}
    for reading in readings:
        for massive, shifts in (
            (WITH, reading.shifts),
            (WITHOUT, np.delete(reading.shifts, reading.massive, axis=1)),
        ):
            models = shifts @ shifts.T
            for reference, own in weights.items():
                where = [reference, reading.span, reading.block, massive]
                if isinstance(own, str):
                    rows.append([*where, *[""] * (len(header) - 5), own])
                    continue
                grams = gram_under(family.trainings(own), models)
                if not np.isfinite(grams).all():
                    rows.append([*where, *[""] * (len(header) - 5), NO_SHIFT])
                    continue
                found = main_statistics(grams, names, members, rules)
                yes = np.stack([*holds(found, rules).values()])
                held.append(yes)
                numbers = [v for key in SHOWN.values() for v in _range(found[key])]
                cells = [v if np.isfinite(v) else "" for v in (*numbers, *yes[:, 0].tolist())]
                rows.append([*where, *cells, "ok"])
    return header, rows, _shares(held, claims)


def _range(values: Floats) -> tuple[float, float, float]:
    """The run's own value, and the lowest and highest over trainings."""
    return float(values[0]), float(values.min()), float(values.max())


def _shares(held: Sequence[Floats], claims: Sequence[str]) -> dict[str, Leaf]:
    """Percent of the cells in which each conclusion holds, and of cells of all trainings."""
    results: dict[str, Leaf] = {"multiverse.cells": len(held)}
    for k, claim in enumerate(claims):
        results[f"multiverse.holds.{claim}"] = _share([float(yes[k, 0]) for yes in held])
        every = [float(value) for yes in held for value in yes[k]]
        results[f"multiverse.trainings.{claim}"] = _share(every)
    return results


def _share(cells: Sequence[float]) -> Estimate:
    """Percent of the defined cells, with their number; no interval: cells are no sample."""
    known = np.array([value for value in cells if np.isfinite(value)])
    if not known.size:
        return Estimate.undefined("undefined in every cell", 0)
    return Estimate(100 * float(known.mean()), n=known.size)
