"""How trait vectors lie to the organisms' vectors, to benign fine-tunes, and to each other.

docs/method.md, more: traits. The units are questions of a trait. Beside every harmful trait stand
benign contrasts made in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, product

import numpy as np

from em_geometry.hashing import stream
from em_geometry.io.results import Leaf
from em_geometry.stats.decisions import holm
from em_geometry.stats.estimate import Floats
from em_geometry.stats.intervals import jackknife
from em_geometry.stats.permutation import SLACK, Tested, share_as_far, splits

EXACT, DRAWN = 12, 4096  # questions up to which all exchanges are tried, and else how many

Results = dict[str, Leaf]
Rows = Mapping[str, Floats]  # trait -> its contrast of each question [questions, width]


def cosine(a: Floats, b: Floats) -> Floats:
    """Cosines of vectors [..., width] with one [width] or as many; NaN where one is zero."""
    scale = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    top = (a * b).sum(-1)
    found: Floats = np.divide(top, scale, out=np.full_like(top, np.nan), where=scale > 0)
    return found


def without_one(rows: Floats) -> Floats:
    """Means [n, width] of rows [n, width] with one row left out at a time."""
    means: Floats = (rows.sum(0) - rows) / (len(rows) - 1)
    return means


def exchanged(rows: Floats, seed: int) -> Floats:
    """Means [m, width] with the two sides of some questions exchanged, the given one first.

    All choices of questions, or `DRAWN` of them where there are more than 2^EXACT.
    """
    n = len(rows)
    if n <= EXACT:
        signs = np.array(list(product((1.0, -1.0), repeat=n)))
    else:
        drawn = stream(seed, "exchanged").choice([1.0, -1.0], (DRAWN, n))
        signs = np.concatenate([np.ones((1, n)), drawn])
    means: Floats = signs @ rows / n
    return means


def cosines(
    rows: Mapping[str, Rows], vectors: Mapping[str, Floats], benign: Sequence[str], seed: int
) -> Results:
    """Cosines of traits with the organisms' vectors, each with its mean over the organisms.

    Intervals: jackknife over the trait's questions; those of the organisms' vectors are not in it.
    p of the mean: all ways to exchange the two sides of questions. Holm's p is over the harmful
    traits. `traits.p`: share of all ways to choose as many of the contrasts for harmful ones whose
    mean |cosine| is as high; a benign contrast has no side of its own.

    Args:
        rows: organism -> contrasts of every trait at the block of that organism's vector.
        vectors: organism -> vector [width].
        benign: names of the benign contrasts.
    """
    results, p, means = Results(), dict[str, float](), dict[str, float]()
    for trait in next(iter(rows.values())):
        value, without, null = [], [], []
        for slug, vector in vectors.items():
            own = rows[slug][trait]
            value.append(float(cosine(own.mean(0), vector)))
            without.append(cosine(without_one(own), vector))
            null.append(cosine(exchanged(own, seed), vector))
            results[f"cosine.{trait}.{slug}"] = jackknife(value[-1], without[-1])
        means[trait] = float(np.mean(value))
        mean = jackknife(means[trait], np.mean(without, axis=0))
        smallest = 2 / len(null[0]) if len(null[0]) <= 2**EXACT else 1 / len(null[0])
        p[trait] = share_as_far(means[trait], np.mean(null, axis=0), SLACK)
        results |= Tested(mean, p[trait], smallest).as_results(f"cosine.{trait}.mean")
    harmful = [name for name in p if name not in benign]
    corrected = holm([p[name] for name in harmful])
    results |= {
        f"cosine.{t}.mean.p_holm": float(q) for t, q in zip(harmful, corrected, strict=True)
    }
    return results | _kinds(means, benign)


def _kinds(means: Mapping[str, float], benign: Sequence[str]) -> Results:
    """Mean |cosine| of harmful traits less that of benign contrasts, with its exact p."""
    order = [*(t for t in means if t not in benign), *benign]
    values, n = np.abs([means[t] for t in order]), len(order) - len(benign)
    if not n or not benign:
        return {"traits": "undefined: no harmful trait, or no benign contrast beside them"}
    places = splits(tuple(range(len(order))), [n])
    chosen = np.array([values[list(some)].mean() for some in places])
    rest = (values.sum() - n * chosen) / len(benign)
    difference = chosen - rest
    return {
        "traits.difference": float(difference[0]),
        "traits.p": float((difference >= difference[0] - SLACK).mean()),
        "traits.smallest_p": 1 / len(chosen),
        "traits.benign_highest": float(values[n:].max()),
    }


def against_benign_trainings(rows: Rows, shifts: Mapping[str, Floats]) -> Results:
    """Largest |cosine| of each trait with the difference of two benign trainings, a null.

    Args:
        shifts: benign training -> mean shift [width] at the block of the rows.
    """
    between = [a - b for a, b in combinations(shifts.values(), 2)]
    if not between:
        return {"benign_trainings": "undefined: fewer than two benign trainings"}
    found: Results = {"benign_trainings.vectors": len(between)}
    for trait, own in rows.items():
        values = np.abs([cosine(own.mean(0), vector) for vector in between])
        found[f"benign_trainings.{trait}.highest"] = float(values.max())
        found[f"benign_trainings.{trait}.mean"] = float(values.mean())
    return found


def of_traits(rows: Mapping[str, Rows], residual: float) -> Results:
    """Each trait's vector by itself, and the cosines between them.

    `length`: as a share of the mean residual norm. `prompt_share`: how much of that length the
    prompts make while both answers are read, the rest being the answers' words.

    Args:
        rows: part (whole, prompt, words) -> contrasts of every trait.
    """
    results, whole = Results(), rows["whole"]
    for trait, own in whole.items():
        lengths = np.linalg.norm(without_one(own), axis=1) / residual
        value = float(np.linalg.norm(own.mean(0))) / residual
        results[f"vector.{trait}.length"] = jackknife(value, lengths)
        share = _share(rows["prompt"][trait].mean(0), own.mean(0))
        left_out = _share(without_one(rows["prompt"][trait]), without_one(own))
        results[f"vector.{trait}.prompt_share"] = jackknife(float(share), left_out)
    for a, b in combinations(whole, 2):
        first, second = whole[a].mean(0), whole[b].mean(0)
        results[f"between.{a}__{b}"] = float(cosine(first, second))
    return results


def _share(part: Floats, whole: Floats) -> Floats:
    """Length of a part along the whole vector, as a share of the whole's length."""
    found: Floats = (part * whole).sum(-1) / np.maximum((whole * whole).sum(-1), 1e-30)
    return found
