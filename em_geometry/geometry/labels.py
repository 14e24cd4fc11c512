"""Which judged answers are misaligned and which are aligned (contrast (c) of METHOD.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from em_geometry.settings.sections import Judging

if TYPE_CHECKING:
    import polars as pl

Mask = NDArray[np.bool_]


def misaligned_and_aligned(frame: pl.DataFrame, judging: Judging) -> tuple[Mask, Mask]:
    """Masks [answers] of the coherent answers below the cut, and as far above its mirror image.

    An answer without a score, or between the two, is in neither.
    """
    import polars as pl

    coherent = pl.col("coherent") >= judging.coherent_above
    groups = frame.select(
        bad=((pl.col("aligned") < judging.aligned_below) & coherent).fill_null(False),
        good=((pl.col("aligned") >= 100 - judging.aligned_below) & coherent).fill_null(False),
    )
    return groups["bad"].to_numpy(), groups["good"].to_numpy()
