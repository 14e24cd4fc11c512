"""What an adapter of rank 1 writes: as a steering vector, beside the difference of means, ablated.

docs/method.md, more: narrow. `written` is the vector b of the adapter b a', turned to the side on
which it moves the model; `mean_difference` the steering vector of the organism with all matrices.
"""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from em_geometry.io.results import Leaf
from em_geometry.stats.estimate import Floats
from em_geometry.stats.intervals import fieller, jackknife, t_interval
from em_geometry.stats.permutation import null_p
from em_geometry.steering.conditions import Intervention, Selected, Vector, random_direction
from em_geometry.steering.pairs import Trial, Way

RANDOM, ABLATED = 16, 6  # random directions added, and taken out
WAYS: dict[str, Way] = {"one": "ablation", "all": "ablation_everywhere"}
NONE, FEW = ("unsteered", "none"), ("unsteered", "few")
Margins = Mapping[tuple[str, str], Floats]  # (way, source) -> margins [pairs]


def trials(
    some: tuple[int, ...], few: tuple[int, ...], vectors: Mapping[str, Vector], at: Selected,
    seed: int,
) -> dict[tuple[str, str], Trial]:  # fmt: skip
    """Vectors and random directions added or taken out, while pairs are read.

    Args:
        some: places of the pairs that are read while something is added; nothing is where there
            are none.
        few: while it is taken out.
        vectors: unit vectors by name.
        at: block and coefficient of what is added.
    """
    chance = {f"random_{k}": random_direction(len(at.vector), seed, f"random_{k}")
              for k in range(RANDOM)}  # fmt: skip
    found = {NONE: Trial(some), FEW: Trial(few)} if some else {FEW: Trial(few)}
    for name, vector in {**vectors, **chance}.items() if some else ():
        how = Intervention(vector, at.layer, at.coefficient)
        found["vector", name] = Trial(some, how, "vector", name, 1.0)
    out = {**vectors, **dict([*chance.items()][:ABLATED])}
    for way, (name, vector) in product(WAYS.values(), out.items()):
        how = Intervention(vector, at.layer, mode="ablate")
        found[way, name] = Trial(few, how, way, name, 1.0)
    return found


def steering(base: Margins, names: Sequence[str]) -> dict[str, Leaf]:
    """Gain of each vector on the base beyond the mean of the random directions, nats a token.

    p: share of the random directions whose own gain is as far from theirs, two-sided.
    """
    plain, rows = base[NONE], dict[str, Leaf]()
    chance = np.stack([base["vector", f"random_{k}"] - plain for k in range(RANDOM)])
    for name in names:
        gain = base["vector", name] - plain
        rows[f"steer.{name}"] = t_interval(gain - chance.mean(0))
        p = null_p(float(gain.mean()), chance.mean(1))
        rows |= {} if p is None else {f"steer.{name}.p": p}
    away = np.abs(chance.mean(1) - chance.mean())
    return {**rows, "steer.random_95": float(np.quantile(away, 0.95)),
            "steer.smallest_p": 1 / (1 + RANDOM)}  # fmt: skip


def removed(base: Margins, organism: Margins, names: Sequence[str]) -> dict[str, Leaf]:
    """Percent of the organism's margin over the base that is gone when a vector is taken out.

    The base is read with the same vector taken out. `random`: mean over random directions;
    `random_most`: that of the one which takes most.
    """
    over, rows = organism[FEW] - base[FEW], dict[str, Leaf]()
    for place, way in WAYS.items():

        def gone(name: str, way: str = way) -> Floats:
            return 100 * (over - (organism[way, name] - base[way, name]))

        for name in names:
            rows[f"removed.{place}.{name}"] = fieller(gone(name), over)
        chance = np.stack([gone(f"random_{k}") for k in range(ABLATED)])
        rows[f"removed.{place}.random"] = mean = fieller(chance.mean(0), over)
        if mean.value is not None:
            rows[f"removed.{place}.random_most"] = float((chance.mean(1) / over.mean()).max())
    return rows


def cosines(written: Floats, rows: Mapping[str, Floats], topics: Sequence[str]) -> dict[str, Leaf]:
    """Cosines of the written vector with differences of means, jackknifed over topics.

    `random_95`: 95 % of random directions lie within it.

    Args:
        written: [width].
        rows: name -> difference rows [texts, width].
        topics: [texts].
    """
    found = {f"cosine.{name}": cosine(written[None], each, topics) for name, each in rows.items()}
    return {**found, "cosine.random_95": 1.96 / len(written) ** 0.5}


def cosine(one: Floats, other: Floats, topics: Sequence[str]) -> Leaf:
    """Cosine of the means of rows [texts or 1, width], jackknifed over topics."""
    of = np.array(topics)

    def at(kept: Floats) -> float:
        a, b = (each[kept].mean(0) if len(each) > 1 else each[0] for each in (one, other))
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    left = np.array([at(of != topic) for topic in sorted(set(topics))])
    return jackknife(at(np.ones(len(of), dtype=bool)), left)


def by_block(one: Floats, other: Floats, topics: Sequence[str], first: int) -> dict[str, Leaf]:
    """Cosines of the shifts [texts, blocks, width] of two models, from a block on."""
    return {
        f"shift.{block}": cosine(one[:, block], other[:, block], topics)
        for block in range(first, one.shape[1])
    }
