"""Do two orthogonal vectors act through the same components? Profiles of patching, compared.

docs/method.md, more: patching. A profile is the effect of every single component in turn. Two are
alike where they are more alike than a vector's and a random direction's of the same norm.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, Self

import numpy as np

from em_geometry.errors import UserError
from em_geometry.io.results import Leaf
from em_geometry.more.patching.effects import Effects, single
from em_geometry.stats.decisions import holm
from em_geometry.stats.estimate import Estimate, Floats
from em_geometry.stats.intervals import fieller, jackknife, t_interval
from em_geometry.stats.permutation import null_p, said
from em_geometry.steering.conditions import (
    Intervention,
    Selected,
    orthogonalised,
    random_direction,
    typical,
)

LEVEL = 0.05  # of all pairs of vectors together
Side = Literal["into", "out"]
SIDES: tuple[Side, ...] = ("into", "out")


@dataclass(frozen=True, eq=False)
class Plan:
    """Pairs of vectors that act, and random directions beside them.

    Attributes:
        vectors: by name; `random_<k>` are random.
        pairs: (first, second made orthogonal to it) -> the cosine that they had.
    """

    vectors: Mapping[str, Intervention]
    pairs: Mapping[tuple[str, str], float]

    @classmethod
    def of(cls, selected: Mapping[str, Selected], pairs: int, random: int, seed: int) -> Self:
        """The pairs of the smallest cosines, no vector in two; the second loses the first's part.

        Args:
            pairs: so many at most.
            random: directions with the block and norm of the typical vector.
        Raises:
            UserError: no two vectors act at one block.
        """
        cosines = {
            (a, b): float(selected[a].vector @ selected[b].vector)
            for a, b in combinations(selected, 2)
            if selected[a].layer == selected[b].layer
        }
        found, vectors, used = dict[tuple[str, str], float](), dict[str, Intervention](), set[str]()
        for a, b in sorted(cosines, key=lambda pair: abs(cosines[pair])):
            left = orthogonalised(selected[b].vector, selected[a].vector)
            if {a, b} & used or left is None or len(found) == pairs:
                continue
            used |= {a, b}
            second = f"{b}_without_{a}"
            found[a, second] = cosines[a, b]
            vectors[a] = _acting(selected[a], selected[a].vector)
            vectors[second] = _acting(selected[b], left)
        if not found:
            raise UserError(
                "no two vectors act at the same block", where="the selected vectors",
                found=", ".join(f"{k} at {v.layer}" for k, v in selected.items()),
                expected="two or more at one block (vectors.layer: common)",
            )  # fmt: skip
        usual = typical(selected)
        for k in range(random):
            vector = random_direction(len(usual.vector), seed, f"patching {k}")
            vectors[f"random_{k}"] = _acting(usual, vector)
        return cls(vectors, found)


def _acting(like: Selected, vector: "np.ndarray") -> Intervention:
    return Intervention(vector, like.layer, like.coefficient)


def results(plan: Plan, effects: Mapping[str, Effects]) -> dict[str, Leaf]:
    """Shares of components, and how alike the profiles of each pair are, by dotted key."""
    found: dict[str, Leaf] = {}
    for name, each in effects.items():
        found[f"vector.{name}.total"] = t_interval(each.total)
        for side in SIDES:
            parts = getattr(each, side)
            found |= {f"vector.{name}.{side}.{c}": t_interval(v) for c, v in parts.items()}
            of = {c: fieller(v, each.total).scaled(100) for c, v in parts.items()}
            found |= {f"vector.{name}.{side}.{c}.share": share for c, share in of.items()}
            largest = max(filter(single, parts), key=lambda c: abs(float(parts[c].mean())))
            found[f"vector.{name}.{side}.largest"] = largest
    random = [name for name in effects if name.startswith("random_")]
    known = [name for name in effects if name not in random]
    for side in SIDES:
        rows = {name: profile(each, side) for name, each in effects.items()}
        for measure, how in MEASURES.items():
            beside = [*((a, b) for a in known for b in random), *combinations(random, 2)]
            chance = np.array([how(rows[a].mean(1), rows[b].mean(1)) for a, b in beside])
            same = {p: _compared(rows[p[0]], rows[p[1]], measure) for p in plan.pairs}
            key = f"overlap.{side}.{measure}"
            found[f"{key}.null"] = _null(chance)
            found |= dict(_verdicts(key, same, chance))
    found |= {f"overlap.cosine.{a}__{b}": cosine for (a, b), cosine in plan.pairs.items()}
    return found | {"random_directions": len(random)}


def profile(effects: Effects, side: Side) -> Floats:
    """[component, pair] effects of the single components."""
    return np.stack([v for c, v in getattr(effects, side).items() if single(c)])


def correlation(a: Floats, b: Floats) -> float:
    """Pearson's, of two profiles [component]; NaN where one is flat."""
    if min(a.std(), b.std()) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def common(a: Floats, b: Floats) -> float:
    """Percent of two profiles [component] that lies in the same components, with the same sign.

    Each is divided by the sum of its sizes first; 100 for proportional ones, 0 where no component
    is in both.
    """
    sums = np.abs(a).sum(), np.abs(b).sum()
    if min(sums) == 0:
        return float("nan")
    a, b = a / sums[0], b / sums[1]
    return float(100 * np.where(a * b > 0, np.minimum(np.abs(a), np.abs(b)), 0.0).sum())


MEASURES = {"correlation": correlation, "common": common}
WITHIN = {"correlation": (-1.0, 1.0), "common": (0.0, 100.0)}  # what a measure can be


def _compared(a: Floats, b: Floats, measure: str) -> Estimate:
    """A measure of two profiles [component, pair], jackknifed over pairs of answers."""
    n, how = a.shape[1], MEASURES[measure]
    without = [how(np.delete(a, i, 1).mean(1), np.delete(b, i, 1).mean(1)) for i in range(n)]
    found = jackknife(how(a.mean(1), b.mean(1)), np.array(without), "undefined: no effect")
    return found.within(*WITHIN[measure])


def _null(chance: Floats) -> Estimate:
    """Median and the middle 95 % of a measure over pairs with a random direction."""
    known = chance[np.isfinite(chance)]
    if not known.size:
        return Estimate.undefined("undefined: no random direction has an effect", 0)
    low, high = np.quantile(known, (0.025, 0.975))
    return Estimate(float(np.median(known)), float(low), float(high), len(known))


def _verdicts(
    key: str, same: Mapping[tuple[str, str], Estimate], chance: Floats
) -> Iterator[tuple[str, Leaf]]:
    """Each pair's measure, its p by the random directions, Holm's over the pairs, and a word.

    More or less alike than by chance is on which side of the null's median a measure lies.
    """
    p = [np.nan if e.value is None else null_p(e.value, chance) or np.nan for e in same.values()]
    smallest = len(same) / (1 + len(chance))
    for (pair, found), plain, adjusted in zip(same.items(), p, holm(p), strict=True):
        name = f"{key}.{'__'.join(pair)}"
        yield name, found
        if np.isfinite(plain):
            yield f"{name}.p", float(plain)
            yield f"{name}.p_holm", float(adjusted)
            word = said(found, float(adjusted), smallest, LEVEL)
            above = found.value is not None and found.value > np.nanmedian(chance)
            side = "more alike than by chance" if above else "less alike than by chance"
            yield f"{name}.says", side if word == "evidence" else word
