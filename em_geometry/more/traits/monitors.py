"""Trait vectors as monitors of models that were trained (docs/method.md, more: traits)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from em_geometry.io.results import Leaf
from em_geometry.stats.agreement import auroc, ranking
from em_geometry.stats.decisions import holm
from em_geometry.stats.estimate import Floats
from em_geometry.stats.permutation import SLACK, Tested, share_as_far, splits

Results = dict[str, Leaf]
Rows = Mapping[str, Floats]  # trait -> its contrast of each question [questions, width]


def monitors(
    rows: Rows,
    shifts: Mapping[str, Floats],
    organisms: Sequence[str],
    benign: Sequence[str],
    residual: float,
) -> Results:
    """Does the shift of organisms along a trait tell them from benign fine-tunes?

    A model's score is its mean shift along the unit vector, as a share of the residual norm.
    AUROC: jackknife over the models, none where it is the same without each; p: all ways to choose
    as many models for organisms, Holm over the traits: of a harmful trait one side, of a benign
    contrast both, as it has no side of its own. `size` is the length of the shift, which knows no
    direction.

    Args:
        shifts: trained model -> shift [texts, width] from the base on the same texts.
        organisms: those that are misaligned; the others are benign.
        benign: names of the benign contrasts.
    """
    results, names = Results(), [*organisms, *(m for m in shifts if m not in organisms)]
    bad = np.array([m in organisms for m in names])
    if bad.all() or not bad.any():
        return {"monitor": "undefined: organisms and benign fine-tunes are needed"}
    means = np.stack([shifts[m].mean(0) for m in names])
    scores = {t: means @ (r.mean(0) / np.linalg.norm(r.mean(0))) for t, r in rows.items()}
    scores["size"] = np.linalg.norm(means, axis=1)
    choices = [*splits(tuple(range(len(names))), [int(bad.sum())])]
    p = dict[str, float]()
    for trait, score in scores.items():
        found = ranking(bad, score, np.array(names))
        if found.width == 0:  # with any model left out they are sorted as well: no spread is seen
            found = replace(found, low=None, high=None)
        ranks = np.array([auroc(np.isin(np.arange(len(names)), c), score) for c in choices])
        sides = 2 if trait in benign else 1
        if sides == 2:
            p[trait] = share_as_far(float(found.value or 0.0) - 0.5, ranks - 0.5, SLACK)
        else:
            p[trait] = float((ranks >= float(found.value or 0.0) - SLACK).mean())
        results |= Tested(found, p[trait], sides / len(choices)).as_results(
            f"monitor.{trait}.auroc"
        )
        results |= {f"monitor.{trait}.organisms": float(score[bad].mean() / residual)}
        results |= {f"monitor.{trait}.benign": float(score[~bad].mean() / residual)}
    corrected = zip(rows, holm([p[trait] for trait in rows]), strict=True)
    return results | {f"monitor.{name}.auroc.p_holm": float(q) for name, q in corrected}
