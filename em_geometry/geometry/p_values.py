"""Intervals and p-values from replicates (METHOD.md: calibration)."""

from __future__ import annotations

from typing import Any

import numpy as np

from em_geometry.geometry.gram import Floats

INTERVAL = (0.025, 0.975)
MIN_DEFINED = 0.95  # share of replicates that define a statistic, below which it has no interval


def interval(values: Floats) -> dict[str, Any]:
    """95 % interval and median of replicates; a status where too few define the statistic."""
    finite = values[np.isfinite(values)]
    if finite.size < MIN_DEFINED * values.size:
        return {"status": f"undefined in {1 - finite.size / values.size:.0%} of replicates"}
    low, high = np.quantile(finite, INTERVAL)
    return {"low": float(low), "high": float(high), "median": float(np.median(finite))}


def p_value(observed: float, null: Floats) -> float | str:
    """Share of null values as far from the null's median as the observed one, counting it.

    Two-sided, (1 + hits) / (1 + replicates); a string where the null does not define it.
    """
    finite = null[np.isfinite(null)]
    if finite.size < MIN_DEFINED * null.size:
        return "undefined in the null"
    middle = np.median(finite)
    hits = (np.abs(finite - middle) >= abs(observed - middle)).sum()
    return float((1 + hits) / (1 + finite.size))


def partition_p(observed: float, values: Floats) -> dict[str, Any]:
    """p over all label assignments, and the smallest p that so few assignments can give.

    `values` [m] holds the observed assignment too; assignments that only swap clusters tie.
    """
    finite = values[np.isfinite(values)]
    away = np.abs(finite - np.median(finite))
    slack = 1e-9 * max(1.0, float(away.max(initial=0.0)))
    distance = abs(observed - float(np.median(finite)))
    return {
        "p": float((away >= distance - slack).mean()),
        "smallest_p": float((away >= away.max() - slack).mean()),
        "assignments": len(values),
    }
