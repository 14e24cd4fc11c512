"""What many estimates of one experiment allow to say, corrected for their number."""

from collections.abc import Mapping

from em_geometry.stats.decisions import LEVEL, decided, detectable
from em_geometry.stats.estimate import Estimate


def corrected(found: Mapping[str, Estimate], margin: float, df: float) -> dict[str, float | str]:
    """As `stats.decisions.decided`, but an effect needs Holm's p below the level too.

    An interval is one of many, so that it alone would call one in twenty null results an effect.
    `detectable` stands beside each that has an interval: what a test would show that has to pass
    Holm's strictest step.
    """
    rows = decided(found, margin, df)
    for key in found:
        if rows.get(f"{key}.says") == "effect" and float(rows[f"{key}.p_holm"]) >= LEVEL:
            rows[f"{key}.says"] = "cannot tell"
    some = {key: each for key, each in found.items() if each.width}
    shown = {key: detectable(each, df, LEVEL / len(some)) for key, each in some.items()}
    return rows | {f"{key}.detectable": least for key, least in shown.items()}
