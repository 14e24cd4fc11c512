"""Names beside points that do not lie on each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stages.geometry.gram import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = 8  # points
WIDE, HIGH = 0.018, 0.065  # of a letter and of a line, in shares of a half-width panel
GAP = 0.05  # between a point and its name
MARKER = 0.03  # half width of a marker
# Where a name may stand: offset in points, alignment, and its centre in half widths and heights.
PLACES = (
    ((9, 0), "left", 1, 0),
    ((-9, 0), "right", -1, 0),
    ((0, 12), "center", 0, 1),
    ((0, -12), "center", 0, -1),
)


def label_points(axes: Axes, names: Sequence[str], points: Floats) -> None:
    """Writes each name where it covers the least of other names, markers and the panel's edge.

    Args:
        points: [n, 2] in data coordinates; the limits of `axes` must be final.
    """
    limits = np.array([axes.get_xlim(), axes.get_ylim()])
    places = (points - limits[:, 0]) / (limits[:, 1] - limits[:, 0])
    taken = [np.array([p - MARKER, p + MARKER]) for p in places]
    for i, name in enumerate(names):
        half = np.array([len(name) * WIDE / 2, HIGH / 2])
        boxes = []
        for _, _, right, up in PLACES:
            middle = places[i] + np.array([right, up]) * (half + GAP * np.array([1, 0.6]))
            boxes.append(np.array([middle - half, middle + half]))
        others = taken[:i] + taken[i + 1 :]
        best = int(np.argmin([_covered(box, others) for box in boxes]))
        offset, align, _, _ = PLACES[best]
        taken.append(boxes[best])
        axes.annotate(
            name,
            (points[i, 0], points[i, 1]),
            offset,
            textcoords="offset points",
            ha=align,
            va="center",
            size=SIZE,
        )


def _covered(box: Floats, others: Sequence[Floats]) -> float:
    """Area that a box [2 corners, 2] shares with others or has outside the panel."""
    size = float(np.prod(box[1] - box[0]))
    inside = np.clip(np.minimum(box[1], 1) - np.maximum(box[0], 0), 0, None)
    shared = sum(
        float(np.prod(np.clip(np.minimum(box[1], o[1]) - np.maximum(box[0], o[0]), 0, None)))
        for o in others
    )
    return shared + size - float(np.prod(inside))
