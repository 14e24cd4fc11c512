"""Do scores tell misaligned training texts from benign ones of other files?

docs/method.md, more: screening.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.stats import rankdata

from em_geometry.hashing import stream
from em_geometry.io.results import Leaf
from em_geometry.more.screening.texts import Files
from em_geometry.stats.agreement import auroc, ranking
from em_geometry.stats.estimate import Bools, Floats
from em_geometry.stats.intervals import jackknife
from em_geometry.stats.permutation import SLACK, splits

SORTING = 500  # random directions whose AUROCs are a null

Results = dict[str, Leaf]


def told_apart(files: Files, ways: Mapping[str, Floats], seed: int) -> Results:
    """AUROC of each file's texts against the benign texts of all other files, by the same vector.

    Of a benign file it is a null. Intervals: of one file, jackknife over texts; of the means over
    files of a kind, jackknife over all files, as every file is held against the same benign ones.
    `p`: all ways to choose as many files for misaligned ones (one side); `random_p`: share of
    random directions whose mean AUROC of misaligned files is as far from .5.
    """
    results, null = Results(), sorted_by_chance(files, seed)
    for way, rows in ways.items():
        if way.startswith("vector."):
            continue
        each = _by_file(files, rows)
        values = np.array([auroc(*one) if one else np.nan for one in each])
        if not way.startswith("trait."):
            for name, one in zip(files.names, each, strict=True):
                if one:
                    results[f"told.{way}.{name}"] = ranking(*one, np.arange(len(one[0])))
        for kind, mask in (("misaligned", ~files.benign), ("benign", files.benign)):
            results[f"told.{way}.mean.{kind}"] = _mean(files, rows, mask)
        bad = values[~files.benign & np.isfinite(values)]
        if len(bad) and len(null):
            hits = int((null >= abs(bad.mean() - 0.5) - SLACK).sum())
            results[f"told.{way}.random_p"] = (1 + hits) / (1 + len(null))
        if np.isfinite(values).all() and files.benign.any() and not files.benign.all():
            results[f"told.{way}.p"] = _exact(values, ~files.benign)
    return results


def _by_file(
    files: Files, rows: Floats, without: int | None = None
) -> list[tuple[Bools, Floats] | None]:
    """Of each file which texts are its own, and scores of these and of other files' benign texts.

    None where no vector may score the file, or no other benign file is there.

    Args:
        without: a file that is left out, as what is scored and as what is compared with.
    """
    found: list[tuple[Bools, Floats] | None] = []
    for i, own in enumerate(files.texts):
        others = [t for j, t in enumerate(files.texts) if files.benign[j] and j not in (i, without)]
        if i == without or not others or not np.isfinite(rows[i]).all():
            found.append(None)
            continue
        score = np.concatenate([own, *others]) @ rows[i]
        found.append((np.arange(len(score)) < len(own), score))
    return found


def _mean(files: Files, rows: Floats, kind: Bools) -> Leaf:
    """Mean AUROC of a kind of files, jackknifed over the files of both kinds."""

    def mean(without: int | None) -> float:
        some = [x for x, of in zip(_by_file(files, rows, without), kind, strict=True) if x and of]
        return float(np.mean([auroc(*x) for x in some])) if some else np.nan

    value = mean(None)
    if not np.isfinite(value):
        return "undefined: no file of this kind that a vector may score"
    counted = np.flatnonzero(np.isfinite(rows).all(1) & kind | files.benign)
    return jackknife(value, np.array([mean(int(k)) for k in counted])).within(0.0, 1.0)


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
