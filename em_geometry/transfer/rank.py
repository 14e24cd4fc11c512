"""Rank correlation of a few models, with the p that so few allow."""

from __future__ import annotations

from itertools import permutations
from math import factorial
from typing import Any

import numpy as np

EXACT = 8  # models up to which all orders are tried
RANDOM = 20_000


def orders(n: int, seed: int) -> np.ndarray:
    """Orders of n models [orders, n], that of the models first: all, or `RANDOM` further ones."""
    if n <= EXACT:
        return np.array(list(permutations(range(n))))
    random = np.random.Generator(np.random.Philox(key=seed))
    return np.array([np.arange(n), *(random.permutation(n) for _ in range(RANDOM))])


def spearman(x: np.ndarray, y: np.ndarray, seed: int) -> dict[str, Any]:
    """Spearman's rho of two arrays [n] with a two-sided permutation p.

    Exact up to `EXACT` models; beyond, from `RANDOM` orders with the observed one among them.
    """
    from scipy.stats import rankdata

    keep = np.isfinite(x) & np.isfinite(y)
    x, y = x[keep], y[keep]
    n = len(x)
    if n < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return {"n": n, "status": "undefined: fewer than 3 models, or all alike"}
    rx, ry = rankdata(x) - (n + 1) / 2, rankdata(y) - (n + 1) / 2
    scale = np.sqrt((rx**2).sum() * (ry**2).sum())
    rho = float(rx @ ry / scale)
    tried = orders(n, seed)
    smallest = 2 / factorial(n) if n <= EXACT else 1 / len(tried)
    null = rx[tried] @ ry / scale
    p = float((np.abs(null) >= abs(rho) - 1e-12).mean())
    return {"rho": rho, "p": p, "smallest_p": smallest, "n": n, "status": "ok"}
