"""How much less misaligned hooked trainings are, what skill they keep, how near the base they stay.

docs/method.md, more: prevention. Units are answer pairs (margins) and chats (losses, KL). Each way
is one training, so that no interval holds retraining; how far a second training of the same
organism lies off stands beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from em_geometry.io.results import Leaf
from em_geometry.more.prevention import PLAIN, RANDOM, WAYS, Measured
from em_geometry.settings import BASE
from em_geometry.stats.decisions import LEVEL, holm, t_test
from em_geometry.stats.estimate import Estimate, Floats
from em_geometry.stats.intervals import fieller, t_interval

Results = dict[str, Leaf]


def of_organism(found: Mapping[str, Measured], control: Floats, repeat: Floats | None) -> Results:
    """What each way does to one organism.

    `margin`: beyond the benign control of its recipe. `prevented`: margin of the plain training
    minus this one's, and `share` of what the plain one has beyond the control. `beyond_random`:
    how much less the margin is than after a training under a random vector. `skill`: loss on
    unseen chats of the organism's own file beyond the plain training's, and `skill_kept`, of what
    the plain training learnt from the base. `kl`: to the base, on benign chats.

    Args:
        found: way -> what was measured.
        control: [pairs] margins of the control.
        repeat: [pairs] margins of a second plain training, where there is one.
    """
    plain, base, random = found[PLAIN], found[BASE], found[RANDOM]
    results: Results = {}
    for way in WAYS:
        own = found[way]
        less = plain.margins - own.margins
        results[f"{way}.margin"] = t_interval(own.margins - control)
        results[f"{way}.kl"] = t_interval(own.kl)
        results[f"{way}.skill_kept"] = fieller(base.losses - own.losses, base.losses - plain.losses)
        if way == PLAIN:
            continue
        results[f"{way}.prevented"] = t_interval(less)
        results[f"{way}.share"] = fieller(less, plain.margins - control)
        results[f"{way}.skill"] = t_interval(own.losses - plain.losses)
        if way != RANDOM:
            results[f"{way}.beyond_random"] = t_interval(random.margins - own.margins)
    if repeat is not None:
        results["retraining"] = t_interval(repeat - plain.margins)
    return results


def outcomes(each: Mapping[str, Results]) -> Results:
    """Results of all organisms, with Holm's p over all that is asked of ways beyond random.

    `says`: a training prevents where its margin is lower than after a random vector, and lower
    than the plain training's by more than a second plain training is off.
    """
    results = {f"{slug}.{key}": leaf for slug, own in each.items() for key, leaf in own.items()}
    asked = [key for key in results if key.endswith(".beyond_random")]
    tests = [t_test(_estimate(results[key])) for key in asked]
    for key, p, q in zip(asked, tests, holm(tests), strict=True):
        slug, way, _ = key.split(".")
        if not np.isfinite(q):
            continue
        results |= {f"{key}.p": float(p), f"{key}.p_holm": float(q)}
        off = results.get(f"{slug}.retraining")
        least = abs(off.value or 0.0) if isinstance(off, Estimate) else None
        lower = _estimate(results[f"{slug}.{way}.prevented"]).value or 0.0
        results[f"{slug}.{way}.says"] = said(_estimate(results[key]), float(q), lower, least)
    return results


def said(beyond: Estimate, p: float, lower: float, retraining: float | None) -> str:
    """In words, from what is beyond random, its corrected p, and the fall of the margin."""
    value = beyond.value or 0.0
    if p >= LEVEL:
        return "cannot be told from a random vector"
    if value < 0:
        return "more misaligned than under a random vector"
    if retraining is None:
        return "less misaligned than under a random vector; a second training was not made"
    if lower <= retraining:
        return "less than under a random vector, but no more than a second training is off"
    return "prevents"


def _estimate(leaf: Leaf) -> Estimate:
    assert isinstance(leaf, Estimate)
    return leaf


def as_tables(
    found: Mapping[tuple[str, str], Measured], pairs: Sequence[str]
) -> dict[str, pl.DataFrame]:
    """Everything that was measured: a row a pair, and a row a chat, in nats a token."""
    columns = ["organism", "way"]
    margins = [
        (*key, p, m)
        for key, x in found.items()
        for p, m in zip(pairs, x.margins.tolist(), strict=True)
    ]
    chats = [
        (*key, kind, number, value)
        for key, x in found.items()
        for kind, values in (("loss", x.losses), ("kl", x.kl))
        for number, value in enumerate(values.tolist())
    ]
    return {
        "margins": pl.DataFrame(margins, [*columns, "pair", "margin"], orient="row"),
        "chats": pl.DataFrame(chats, [*columns, "measure", "chat", "value"], orient="row"),
    }
