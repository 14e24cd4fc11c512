"""For a while: metrics of stages that do not yet write tables, as results.

An interval was spelt in several ways; here each becomes an `Estimate` at the thing's own key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from em_geometry.io.results import as_estimate
from em_geometry.stats.estimate import OK, Estimate

SAID = {"status", "n", "models", "verdict"}
MAIN = ("value", "value_pct", "difference_pct", "e1_pct", "rho", "observed", "mean")


def converted(nested: Mapping[str, Any]) -> dict[str, Estimate]:
    """Nested metrics by dotted key."""
    return dict(_rows(nested, ""))


def _rows(group: Mapping[str, Any], path: str) -> Iterator[tuple[str, Estimate]]:
    def key(name: str) -> str:
        return f"{path}.{name}" if path else name

    left = dict(group)
    main = next((m for m in MAIN if m in left and (m not in ("mean",) or "low" in left)), None)
    if main is None and "median" in left and "low" in left:
        main = "median"
    if main is not None and not isinstance(left[main], Mapping | Estimate):
        yield path, _estimate(left.pop(main), left.pop("low", None), left.pop("high", None),
                              left.pop("n", None), left.pop("status", OK))  # fmt: skip
    elif path and left.get("status", OK) != OK and set(left) <= SAID:
        yield path, Estimate.undefined(left.pop("status"), left.pop("n", None))
    elif path and isinstance(left.get("p"), str):
        yield path, Estimate.undefined(left.pop("status", left["p"]))
    for name in [n for n in left if f"{n.removesuffix('_pct')}_low" in left]:
        stem = name.removesuffix("_pct")
        low, high = left.pop(f"{stem}_low"), left.pop(f"{stem}_high")
        yield key(stem), _estimate(left.pop(name), low, high, left.get("n"), OK)
    for name, inner in left.items():
        if isinstance(inner, Mapping):
            yield from _rows(inner, key(name))
        else:
            yield (
                key(name.removesuffix("_pct") if name == "em_pct" else name),
                as_estimate(str(inner) if isinstance(inner, bool) else inner),
            )


def _estimate(value: Any, low: Any, high: Any, n: Any, status: str) -> Estimate:
    if isinstance(value, str):
        return Estimate.undefined(value, n)
    ends = [None if end is None or isinstance(end, str) else float(end) for end in (low, high)]
    return Estimate(float(value), ends[0], ends[1], n, status)
