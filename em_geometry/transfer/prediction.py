"""Does a number known of two vectors predict how far one acts on the other's model?

METHOD.md: transfer. Everything is a matrix [source, target] over the models. Pairs share models, so
they are no independent observations: p comes from giving the models' labels to each other (Mantel,
Cancer Research 27, 1967), and the interval, of what the choice of questions leaves open, from
the bootstrap over questions of the outcome.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from em_geometry.transfer.rank import orders
from em_geometry.transfer.table import estimate

LEVEL = 0.05  # of all predictors together: each is held to its share (Bonferroni)


def correlation(x: np.ndarray, y: np.ndarray, seed: int) -> dict[str, Any]:
    """Spearman's rho over ordered pairs of models, with interval and permutation p.

    Args:
        x: predictor [source, target]; a number of the source alone is repeated over the targets.
        y: outcome [1 + draws, source, target], the observed one first; pairs whose observed
            outcome is NaN are left out, as is the diagonal.
    """
    n = len(x)
    used = np.isfinite(y[0]) & ~np.eye(n, dtype=bool)
    pairs = int(used.sum())
    result: dict[str, Any] = {"n": pairs, "models": n}
    if n < 3 or pairs < 4:
        return result | {"status": "undefined: fewer than 3 models or 4 pairs with an outcome"}
    if not np.isfinite(x[~np.eye(n, dtype=bool)]).all():
        return result | {"status": "undefined: a pair without a value of the predictor"}
    tried = orders(n, seed)
    shuffled = x[tried[:, :, None], tried[:, None, :]][:, used]
    outcome = y[:, used]
    if np.ptp(shuffled[0]) == 0 or np.ptp(outcome[0]) == 0:
        return result | {"status": "undefined: all pairs alike"}
    null = _rho(shuffled, outcome[:1])
    found = estimate(_rho(shuffled[:1], outcome), pairs)
    if found.status != "ok":
        return result | {"status": found.status}
    return result | {
        "rho": found.value,
        "low": found.low,
        "high": found.high,
        "p": float((np.abs(null) >= abs(null[0]) - 1e-12).mean()),
        "smallest_p": 1 / len(tried),
        "status": "ok",
    }


def _rho(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rho of rows [rows, n]; one side may have a single row. NaN where a row is flat."""
    from scipy.stats import rankdata

    a, b = (rankdata(v, axis=1) - (v.shape[1] + 1) / 2 for v in (a, b))
    scale = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    product = (a * b).sum(1)
    found: np.ndarray = np.divide(
        product, scale, out=np.full_like(product, np.nan), where=scale > 0
    )
    return found


def reliability(y: np.ndarray) -> float | str:
    """Share of an outcome's spread over pairs that another set of questions would give again.

    1 - variance by question / variance between pairs, 0 to 1; no predictor can correlate with an
    outcome better than about its square root.

    Args:
        y: as in `correlation`.
    """
    values = y[:, np.isfinite(y[0]) & ~np.eye(y.shape[1], dtype=bool)]
    between = values[0].var() if values.shape[1] > 1 else 0.0
    if between == 0:
        return "undefined: all pairs alike"
    return float(np.clip(1 - np.nanmean((values[1:] - values[0]).var(axis=1)) / between, 0, 1))


def verdict(found: dict[str, Any], predictors: int) -> str:
    """`evidence`, `no evidence`, or why there can be none."""
    if found["status"] != "ok":
        return str(found["status"])
    level = LEVEL / predictors
    if found["smallest_p"] >= level:
        return f"no evidence possible: {found['models']} models allow no p below {level:.4f}"
    apart = found["low"] > 0 or found["high"] < 0
    return "evidence" if found["p"] < level and apart else "no evidence"


def sentence(predictor: str, outcome: str, found: dict[str, Any], predictors: int) -> str:
    """The answer in one sentence that is built from the numbers."""
    said = verdict(found, predictors)
    pairs = f"With n = {found['n']} pairs of {found['models']} models, {predictor}"
    if found["status"] != "ok":
        return f"{pairs}: {said}."
    return (
        f"{pairs} goes with {outcome} at rho = {found['rho']:.2f} "
        f"({found['low']:.2f}, {found['high']:.2f}), p = {found['p']:.4f} "
        f"(smallest possible {found['smallest_p']:.4f}): {said}."
    )


def noise_sentence(outcome: str, share: float | str) -> str:
    """How much of the outcome there is to be predicted."""
    if isinstance(share, str):
        return f"How much of {outcome} is noise is {share}."
    return (
        f"Of the spread of {outcome} between pairs, {100 * share:.0f} % would come back with other "
        f"questions, so that even a perfect predictor would show rho of about {share**0.5:.2f}."
    )
