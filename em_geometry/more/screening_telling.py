"""Do scores tell misaligned training texts from benign ones of other files?

docs/method.md, more: screening.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.stats import rankdata

from em_geometry.hashing import stream
from em_geometry.io.results import Leaf
from em_geometry.more.screening import Files
from em_geometry.stats.agreement import auroc, ranking
from em_geometry.stats.estimate import Bools, Estimate, Floats
from em_geometry.stats.intervals import ends, t_interval
from em_geometry.stats.permutation import SLACK, splits

SORTING = 500  # random directions whose AUROCs are a null

Results = dict[str, Leaf]


def told_apart(files: Files, ways: Mapping[str, Floats], seed: int) -> Results:
    """AUROC of each file's texts against the benign texts of all other files, by the same vector.

    Of a benign file it is a null. Intervals: jackknife over texts; of the means, t over files.
    `p`: all ways to choose as many files for misaligned ones (one side); `random_p`: share of
    random directions whose mean AUROC of misaligned files is as far from .5.
    """
    results, null = Results(), sorted_by_chance(files, seed)
    for way, rows in ways.items():
        if way.startswith("vector."):
            continue
        values = np.full(len(files.names), np.nan)
        for i, name in enumerate(files.names):
            others = [t for j, t in enumerate(files.texts) if files.benign[j] and j != i]
            if not others or not np.isfinite(rows[i]).all():
                continue
            score = np.concatenate([files.texts[i], *others]) @ rows[i]
            own = np.arange(len(score)) < len(files.texts[i])
            values[i] = auroc(own, score)
            if not way.startswith("trait."):
                results[f"told.{way}.{name}"] = ranking(own, score, np.arange(len(score)))
        kinds = (("misaligned", ~files.benign), ("benign", files.benign))
        for kind, mask in kinds:
            some = values[mask & np.isfinite(values)]
            none = "undefined: no file of this kind that a vector may score"
            results[f"told.{way}.mean.{kind}"] = (
                within(t_interval(some), 0.0) if len(some) else none
            )
        bad = values[~files.benign & np.isfinite(values)]
        if len(bad) and len(null):
            hits = int((null >= abs(bad.mean() - 0.5) - SLACK).sum())
            results[f"told.{way}.random_p"] = (1 + hits) / (1 + len(null))
        if np.isfinite(values).all() and files.benign.any() and not files.benign.all():
            results[f"told.{way}.p"] = _exact(values, ~files.benign)
    return results


def sorted_by_chance(files: Files, seed: int) -> Floats:
    """[directions] how far from .5 random directions have the mean AUROC of misaligned files."""
    if files.benign.all() or not files.benign.any():
        return np.zeros(0)
    drawn = stream(seed, "sorting").standard_normal((SORTING, files.texts[0].shape[1]))
    benign = np.concatenate(
        [t for t, quiet in zip(files.texts, files.benign, strict=True) if quiet]
    )
    found = []
    for texts in (t for t, quiet in zip(files.texts, files.benign, strict=True) if not quiet):
        ranks = rankdata(drawn @ np.concatenate([texts, benign]).T, axis=1)
        n, m = len(texts), len(benign)
        found.append((ranks[:, :n].sum(1) - n * (n + 1) / 2) / (n * m))
    away: Floats = np.abs(np.mean(found, axis=0) - 0.5)
    return away


def _exact(values: Floats, first: Bools) -> float:
    """Share of all choices of as many files whose mean is as high as that of the first ones."""
    chosen = splits(tuple(range(len(values))), [int(first.sum())])
    means = np.array([values[list(some)].mean() for some in chosen])
    return float((means >= values[first].mean() - SLACK).mean())


def within(found: Estimate, least: float) -> Estimate:
    """An estimate whose interval keeps within what the number can be, `least` to 1."""
    low, high = ends(found)
    return Estimate.from_values(
        float("nan") if found.value is None else found.value,
        max(low, least), min(high, 1.0), found.n, found.status,
    )  # fmt: skip
