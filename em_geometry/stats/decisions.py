"""What an interval allows to say: many tests at once, "no effect", and the power of a null result.

docs/method.md: decisions.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import nct, norm, t

from em_geometry.stats.estimate import Estimate, Floats
from em_geometry.stats.intervals import TAILS

Place = Literal["inside", "outside", "open"]
Effect = Literal["effect", "no effect", "cannot tell"]
LEVEL = 0.05  # of a two-sided test
POWER = 0.8  # that a test should have


def holm(p_values: npt.ArrayLike) -> Floats:
    """p-values of one table [m] adjusted for their number (Holm 1979, Scand. J. Statist. 6:65).

    Rejecting what lies below a level keeps the chance of any false alarm below it. NaN (no test)
    stays NaN and is not counted.
    """
    p = np.asarray(p_values, dtype=np.float64)
    tested = np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    raised = (len(order) - np.arange(len(order))) * p[order]
    adjusted = np.full_like(p, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(raised), 1.0)
    return adjusted


def place(found: Estimate, low: float, high: float) -> Place:
    """Where the 95 % interval lies: inside [low, high], outside it, or across one of its ends.

    Without an interval nothing can be told.
    """
    if found.low is None or found.high is None:
        return "open"
    if low <= found.low and found.high <= high:
        return "inside"
    return "outside" if found.high < low or found.low > high else "open"


def effect(found: Estimate, margin: float) -> Effect:
    """What an interval says of an effect of which less than `margin` counts as none.

    "no effect" is two one-sided tests at 2.5 % (Schuirmann 1987); what lies inside the margin is no
    effect even where its interval leaves out 0.
    """
    if place(found, -margin, margin) == "inside":
        return "no effect"
    if found.low is None or found.high is None or found.low <= 0 <= found.high:
        return "cannot tell"
    return "effect"


def standard_error(found: Estimate, df: float | None = None) -> float:
    """That of an estimate with a symmetric 95 % interval; NaN without one.

    Args:
        df: degrees of freedom of the t that made it; None = n - 1, normal where n is not known.
    """
    if found.width is None:
        return np.nan
    return found.width / 2 / float(t.ppf(TAILS[1], _df(found, df)))


def _df(found: Estimate, df: float | None) -> float:
    if df is not None:
        return df
    return found.n - 1 if found.n and found.n > 1 else np.inf


def t_test(found: Estimate, df: float | None = None) -> float:
    """Two-sided p that an estimate with a 95 % interval is 0, by its end on 0's side; NaN without.

    It is below .05 where the interval leaves out 0, a widened one (MOVER) too.
    """
    if found.value is None or found.low is None or found.high is None:
        return np.nan
    reach = found.value - found.low if found.value > 0 else found.high - found.value
    error = reach / float(t.ppf(TAILS[1], _df(found, df)))
    if error == 0:
        return float(found.value == 0)
    return float(2 * t.sf(abs(found.value) / error, _df(found, df)))


def decided(found: Mapping[str, Estimate], margin: float, df: float) -> dict[str, float | str]:
    """What many estimates of one table allow to say, by key.

    `p`, `p_holm` over all of them, `says` (see `effect`), and beside what is no effect that can be
    told, `detectable`.

    Args:
        df: degrees of freedom of their intervals.
    """
    p = [t_test(each, df) for each in found.values()]
    rows: dict[str, float | str] = {}
    for (key, each), plain, adjusted in zip(found.items(), p, holm(p), strict=True):
        if not np.isfinite(plain):
            continue
        said = effect(each, margin)
        rows |= {f"{key}.p": plain, f"{key}.p_holm": float(adjusted), f"{key}.says": said}
        rows |= {f"{key}.detectable": detectable(each, df)} if said == "cannot tell" else {}
    return rows


def power(effect: float, error: float, df: float = np.inf, level: float = LEVEL) -> float:
    """Chance that a two-sided test shows an effect whose estimate has this standard error.

    Exact for means of normal values, by the noncentral t.
    """
    if error == 0:
        return 1.0 if effect else level
    shift = abs(effect) / error
    if np.isinf(df):
        cut = float(norm.ppf(1 - level / 2))
        return float(norm.sf(cut - shift) + norm.cdf(-cut - shift))
    cut = float(t.ppf(1 - level / 2, df))
    other_side = np.nan_to_num(
        nct.cdf(-cut, df, shift)
    )  # scipy has NaN where it is 0 but for 1e-17
    return float(nct.sf(cut, df, shift) + other_side)


def detectable(found: Estimate, df: float | None = None, level: float = LEVEL) -> float:
    """Smallest true effect that a test as precise as `found` shows with power .8; NaN without one.

    It stands beside every null result, in the unit of the estimate.

    Args:
        level: of the test; of one among m that Holm corrects, the level / m.
    """
    error, free = standard_error(found, df), _df(found, df)
    if not error > 0:
        return error
    far = 10 + 10 * float(t.ppf(1 - level / 2, free))  # errors, at which every test shows it
    return error * float(brentq(lambda x: power(x, 1.0, free, level) - POWER, 0.0, far))
