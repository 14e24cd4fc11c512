"""Trait vectors added to the base: on its misaligned pairs, and on the traits' own answers.

docs/method.md, more: traits. Block and length are those of the organisms' vectors. A trait's own
answers are read under a vector that was made of its other questions (two halves), so that what
the vector does is not what it was made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from scipy.stats import t

from em_geometry.io.results import Leaf
from em_geometry.settings import BASE
from em_geometry.stats.decisions import holm
from em_geometry.stats.estimate import Floats
from em_geometry.stats.intervals import t_interval
from em_geometry.stats.permutation import Tested
from em_geometry.steering.conditions import Intervention, Selected, random_direction
from em_geometry.steering.pairs import Pair, Trial, indices
from em_geometry.transfer.outcomes import MAIN, Margins

RANDOM = 8  # directions for a trait's own answers; the misaligned pairs have those of `margins`

Results = dict[str, Leaf]
Rows = Mapping[str, Floats]  # trait -> its contrast of each question [questions, width]


def source(trait: str) -> str:
    """What tables call a trait's vector: no organism has such a name."""
    return f"trait:{trait}"


def _added(vector: Floats, at: Selected) -> Intervention:
    unit = (vector / np.linalg.norm(vector)).astype(np.float32)
    return Intervention(unit, at.layer, at.coefficient)


def trials(rows: Rows, at: Selected, pairs: Sequence[Pair], limit: int | None) -> list[Trial]:
    """Every trait's vector, added while the misaligned reporting pairs are read.

    Args:
        at: whose block and coefficient the vectors get.
        limit: of pairs, as where the random directions were read.
    """
    some = indices(pairs, "misaligned", "reporting", limit)
    return [
        Trial(some, _added(own.mean(0), at), "vector", source(trait), 1.0)
        for trait, own in rows.items()
    ]


def own_trials(rows: Rows, at: Selected, seed: int) -> list[Trial]:
    """Each trait's own answers, a half at a time, under the vector of the other half.

    The pairs are those of all traits, one after the other.
    """
    found, first = list[Trial](), 0
    for trait, own in rows.items():
        places = np.arange(len(own))
        for half in (places % 2 == 0, places % 2 == 1):
            some = tuple(int(first + i) for i in places[half])
            found.append(Trial(some))
            vector = _added(own[~half].mean(0), at)
            found.append(Trial(some, vector, "vector", source(trait), 1.0))
            for k in range(RANDOM):
                drawn = random_direction(own.shape[1], seed, f"random_{k}")
                how = Intervention(drawn, at.layer, at.coefficient)
                found.append(Trial(some, how, "random", f"random_{k}", 1.0))
        first += len(own)
    return found


def own_gains(rows: Rows, read: Sequence[Floats]) -> Results:
    """What each trait's vector adds to the margin of the trait's own answers, beyond chance.

    Args:
        read: log-probabilities [pairs, 2] of each of `own_trials`, in their order.
    """
    results, each = Results(), 2 + RANDOM
    for number, trait in enumerate(rows):
        halves = []
        for half in (2 * number, 2 * number + 1):
            margins = [v[:, 0] - v[:, 1] for v in read[half * each : (half + 1) * each]]
            halves.append(np.stack(margins[1:]) - margins[0])
        whole = np.concatenate(halves, axis=1)  # [vector and random directions, questions]
        results |= gain(whole[0], whole[1:]).as_results(f"own.{trait}")
    return results


def gains(frame: pl.DataFrame, traits: Sequence[str], organisms: Sequence[str]) -> Results:
    """What the vectors of traits and organisms add to the base's misaligned margins.

    Holm's p is over the traits.

    Args:
        frame: margins of the stage `margins`, and those under the traits' vectors.
    """
    table, results, p = Margins.of(frame), Results(), list[float]()
    named = {**{f"trait.{t}": source(t) for t in traits}, **{f"vector.{o}": o for o in organisms}}
    for name, of in named.items():
        done = table.done.get((BASE, MAIN, "vector", of, 1.0))
        random = table.random.get((BASE, MAIN, done.norm)) if done else None
        if done is None or random is None:
            results[f"steering.{name}"] = "undefined: no random directions of this norm"
            continue
        found = gain(done.gain, random)
        results |= found.as_results(f"steering.{name}")
        results[f"steering.{name}.rank"] = rank(done.gain, random)
        results[f"steering.{name}.damage"] = done.damage
        p += [float(found.p or 0.0)] if of.startswith("trait:") else []
    if len(p) == len(traits):
        corrected = zip(traits, holm(p), strict=True)
        results |= {f"steering.trait.{t}.p_holm": float(q) for t, q in corrected}
    return results


def gain(own: Floats, random: Floats) -> Tested:
    """Margin that a vector adds beyond random directions of its norm [pairs], nats a token.

    The interval is t over pairs; p, two-sided, is of a further random direction that adds as much,
    by Student's t on the scatter of the directions' means, which their rank alone cannot give.

    Args:
        own: [pairs] margin minus the unsteered one.
        random: [directions, pairs] of random directions, two or more.
    """
    read = np.isfinite(own) & np.isfinite(random).all(0)
    own, random = own[read], random[:, read]
    means, m = random.mean(1), len(random)
    scatter = float(means.std(ddof=1)) * (1 + 1 / m) ** 0.5
    away = abs(float(own.mean() - means.mean())) / max(scatter, 1e-30)
    return Tested(t_interval(own - random.mean(0)), float(2 * t.sf(away, m - 1)))


def rank(own: Floats, random: Floats) -> float:
    """Share of all directions, the vector among them, that add as much on the mean."""
    read = np.isfinite(own) & np.isfinite(random).all(0)
    higher = random[:, read].mean(1) >= own[read].mean()
    return float((1 + higher.sum()) / (1 + len(higher)))
