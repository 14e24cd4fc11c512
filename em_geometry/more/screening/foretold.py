"""What scores of training texts foretell: margins and shifts over files, and misaligned texts.

docs/method.md, more: screening. The unit is the training file; texts of a file are alike, so that
no p counts them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from em_geometry.hashing import stream
from em_geometry.io.results import Leaf
from em_geometry.more.screening.telling import told_apart
from em_geometry.more.screening.texts import Files, Vectors
from em_geometry.stats.decisions import holm
from em_geometry.stats.estimate import Floats
from em_geometry.stats.intervals import jackknife
from em_geometry.stats.permutation import (
    EXACT,
    SLACK,
    Tested,
    orders,
    rank_correlations,
    share_as_far,
)

RANDOM = 2000  # directions whose rank correlations are a null
LEAST = 4  # files; of fewer there are hardly any orders
TOGETHER = "organisms"  # the mean of all vectors that may score a file
OTHERS = "other_clusters"  # of those whose organism is of another cluster than the file's

Results = dict[str, Leaf]


@dataclass(frozen=True, eq=False)
class Caused:
    """What training on each file did, the mean over all trainings on it.

    Attributes:
        margins: [files] misaligned margin minus the base's, nats a token.
        shifts: [files, width] mean shift from the base.
    """

    margins: Floats
    shifts: Floats


def outcomes(
    files: Files,
    caused: Caused,
    organisms: Vectors,
    traits: Vectors,
    mates: Mapping[str, Collection[str]],
    seed: int,
) -> Results:
    """How far scores foretell margins and shifts over files, and tell misaligned texts.

    Args:
        organisms, traits: vectors [width] by name.
        mates: organism -> those of its cluster.
    """
    ways = {TOGETHER: files.rows(organisms), OTHERS: files.rows(organisms, mates)}
    ways |= {f"vector.{k}": files.rows({k: v}) for k, v in organisms.items()}
    ways |= {f"trait.{k}": files.rows({k: v}) for k, v in traits.items()}
    drawn = stream(seed, "screening").standard_normal((RANDOM, caused.shifts.shape[1]))
    centred = np.stack([t.mean(0) for t in files.texts]) - files.centres()
    results: Results = {"files": len(files.names), "texts": sum(map(len, files.texts))}
    p = dict[str, float]()
    for way, rows in ways.items():
        scored = np.isfinite(rows).all(1)
        score = np.array([each.mean() for each in files.scores(rows)])
        shift = (caused.shifts * rows).sum(1) / files.residual
        by_chance = drawn @ centred[scored].T
        for name, outcome in (("margin", caused.margins), ("shift", shift)):
            key = f"{name}.{way}"
            found = predicted(score[scored], outcome[scored], by_chance, seed)
            results |= {f"{key}.{k}".rstrip("."): leaf for k, leaf in found.items()}
        p[f"margin.{way}"] = _number(results.get(f"margin.{way}.p"))
        bad = scored & ~files.benign
        inside = predicted(score[bad], caused.margins[bad], drawn @ centred[bad].T, seed)
        results |= {f"margin.{way}.within_organisms": inside[""]}
        results |= {f"margin.{way}.within_organisms.p": inside.get("p", "undefined")}
    corrected = zip(p, holm([*p.values()]), strict=True)
    results |= {f"{key}.p_holm": float(q) for key, q in corrected if np.isfinite(q)}
    return results | told_apart(files, ways, seed)


def _number(leaf: Leaf | None) -> float:
    return leaf if isinstance(leaf, float) else float("nan")


def predicted(score: Floats, outcome: Floats, random: Floats, seed: int) -> Results:
    """Rank correlation over files at the key "", jackknifed over them, with two nulls.

    `p`: all orders of the files (or 20,000); `random_p`: share of random directions whose scores
    correlate as far; both two-sided.

    Args:
        random: [directions, files] scores along random directions.
    """
    n = len(score)
    if n < LEAST:
        return {"": f"undefined: {n} files that this vector may score, {LEAST} needed"}
    value = float(rank_correlations(score[None], outcome[None])[0])
    keep = ~np.eye(n, dtype=bool)
    without = [rank_correlations(score[k][None], outcome[k][None])[0] for k in keep]
    order = orders(n, seed)
    null = rank_correlations(score[order], outcome[None])
    smallest = (2 if n <= EXACT else 1) / len(order)
    found = jackknife(value, np.array(without)).within(-1.0, 1.0)
    chance = np.abs(rank_correlations(random, outcome[None]))
    tested = Tested(found, share_as_far(value, null, SLACK), smallest).as_results("")
    results: Results = {k.removeprefix("."): leaf for k, leaf in tested.items()}
    hits = int((chance >= abs(value) - SLACK).sum())
    return results | {"random_p": (1 + hits) / (1 + len(chance))}
