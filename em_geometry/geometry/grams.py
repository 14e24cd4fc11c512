"""Gram matrices of vectors with prompts left out, and under nulls (docs/method.md: calibration)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

from em_geometry.geometry.core import independent_grams
from em_geometry.stats.estimate import Floats, Ints

TRIED = 10  # simulated dimensions for each that is kept


@dataclass(frozen=True, eq=False)
class PromptRows:
    """Vectors that are the mean of difference rows.

    Prompts of a topic resemble each other and are left out together.
    """

    differences: Floats  # [n, R, width]: organism minus reference, or harmful minus neutral
    topic: Sequence[str]  # [R] of each row

    @property
    def vectors(self) -> Floats:
        """[n, width]"""
        return np.asarray(self.differences.mean(1))

    @cached_property
    def grams(self) -> Floats:
        """Raw Gram matrices [1 + T, n, n]: of all rows, then without each topic (jackknife)."""
        topics = np.array(self.topic)
        kept = (topics != name for name in sorted(set(self.topic)))
        means = [self.vectors, *(self.differences[:, rows].mean(1) for rows in kept)]
        return np.stack([vectors @ vectors.T for vectors in means])


def massive_dimensions(rows: Floats, share: float) -> Ints:
    """The `share` of dimensions with the largest mean magnitude over rows [m, width]."""
    order = np.argsort(-np.abs(rows).mean(0), kind="stable")
    return order[: round(share * rows.shape[-1])]


def between_dimension(gram: Floats, of: Sequence[str]) -> Floats:
    """Effective dimension [...] of the covariance between few things; NaN below four.

    The participation ratio tr(S)^2 / tr(S^2), in which isotropic cosines spread as widely; that of
    a sample covariance cannot exceed k - 1. Differences of disjoint pairs of rows are independent,
    so products of their squared lengths and their squared inner products estimate both parts
    without that bias.

    Args:
        gram: [..., k, k] of the rows.
        of: [k] what each row is a training of; trainings of one thing are not independent.
    """
    _, thing = np.unique(list(of), return_inverse=True)
    if thing.max(initial=0) < 3:
        return np.full(gram.shape[:-2], np.nan)
    pairs = np.array([(i, j) for i, j in combinations(range(len(of)), 2) if of[i] != of[j]])
    signs, things = np.eye(len(of))[pairs], thing[pairs]
    gaps = signs[:, 0] - signs[:, 1]
    inner = gaps @ gram @ gaps.T
    apart = ~(things[:, None, :, None] == things[None, :, None, :]).any((2, 3))
    squares = np.diagonal(inner, axis1=-2, axis2=-1)
    lengths = (squares[..., :, None] * squares[..., None, :])[..., apart].mean(-1)
    alike = np.square(inner[..., apart]).mean(-1)
    found = np.divide(lengths, alike, out=np.full(lengths.shape, np.nan), where=alike > 0)
    return np.asarray(found)


def possible_dimensions(
    rng: np.random.Generator, rows: Floats, of: Sequence[str], count: int
) -> Ints:
    """Effective dimensions [count] that may stand behind the rows' own, which few of them estimate.

    Of `TRIED` times as many, with logarithms uniform from 2 to the width, those are kept in which
    as many simulated rows have an estimate nearest to that of these. Trainings of one thing are as
    alike there as here.

    Args:
        rows: [k, width] shifts of fine-tunes.
        of: as of `between_dimension`.
    Raises:
        ValueError: fewer than four things.
    """
    gram, (names, thing) = rows @ rows.T, np.unique(list(of), return_inverse=True)
    if not np.isfinite(found := between_dimension(gram, of)):
        raise ValueError("fewer than four things")
    squares = np.diag(gram)[:, None] + np.diag(gram) - 2 * gram
    same = (thing[:, None] == thing) & ~np.eye(len(thing), dtype=bool)
    own = squares[same].mean() / squares[thing[:, None] != thing].mean() if same.any() else 0.0
    own = min(own, 1.0)
    parts = np.hstack([(1 - own) ** 0.5 * np.eye(len(names))[thing], own**0.5 * np.eye(len(thing))])
    tried, gaps = [], []
    for _ in range(TRIED):
        logs = rng.uniform(np.log(2), np.log(rows.shape[-1]), count)
        sizes = np.exp(logs).round().astype(np.int64)
        grams = parts @ independent_grams(rng, count, parts.shape[1], sizes) @ parts.T
        tried.append(sizes)
        gaps.append(np.abs(np.log(between_dimension(grams, of) / found)))
    nearest = np.argsort(np.concatenate(gaps), kind="stable")[:count]
    return np.asarray(rng.permutation(np.concatenate(tried)[nearest]))


def finetune_draws(rng: np.random.Generator, dimensions: Ints, weights: Floats) -> Floats:
    """Gram matrices [B, n, n] of vectors all of whose models are further benign fine-tunes.

    The shifts of organisms and controls alike are independent draws around a mean that all share
    and that their differences do not hold; so vectors with one control have cosines around .5 here
    too. They are isotropic in the effective dimension of the benign fine-tunes: a sample covariance
    of few has too few dimensions, and its draws lie too far from right angles.

    Args:
        dimensions: [B] of the benign fine-tunes, one a draw (`possible_dimensions`).
        weights: [n, model] of the vectors on the shifts, zero in sum: against the base, so few
            fine-tunes do not tell how far fine-tuning as such goes.
    """
    grams = independent_grams(rng, len(dimensions), weights.shape[1], dimensions)
    return np.asarray(weights @ grams @ weights.T)


def exchanged_draws(
    rng: np.random.Generator, models: Floats, weights: Floats, replicates: int
) -> Floats:
    """Gram matrices [B, n, n] with the fine-tunes, organisms and controls, exchanged at random.

    The null is that misaligned organisms are to each other what benign fine-tunes are to them and
    to each other. It assumes no distribution, and holds for every reference.

    Args:
        models: [m, m] Gram matrix of the organisms and controls, no repeats among them.
        weights: [n, m] of the vectors on them.
    """
    orders = rng.permuted(np.tile(np.arange(len(models)), (replicates, 1)), axis=1)
    moved = models[orders[:, :, None], orders[:, None, :]]
    return np.asarray(weights @ moved @ weights.T)
