"""Latents of a sparse dictionary that organisms change: by direction, by activation, as detectors.

docs/method.md: features. A latent's *weight* is its mean activation over a text's tokens times the
length of its decoder row, as a share of the mean residual norm: how far it alone moves the state.
Thousands of latents are looked at, so that what is highest among them is compared with what is
highest among as many where there is nothing to find.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from math import comb
from typing import TypeAlias

import numpy as np

from em_geometry.errors import UserError
from em_geometry.io.results import Leaf, as_estimate
from em_geometry.monitoring.detection import BENIGN, beyond
from em_geometry.more.features.sparse import blocks, nearest, unit
from em_geometry.stats.decisions import LEVEL, holm
from em_geometry.stats.estimate import Estimate, Floats, Ints
from em_geometry.stats.intervals import jackknife, t_interval
from em_geometry.stats.permutation import said

TOP = 10  # latents of a model that are compared with another's
DRAWS = 1000  # random directions
FLIPS = 12  # topics up to which every choice of signs is tried
DEALS = 20_000  # of the labels of models; more are drawn at random


@dataclass(frozen=True, eq=False)
class Read:
    """A model on the texts: mean activations [texts, latents], mean states [texts, width]."""

    latents: Floats
    states: Floats


Reader: TypeAlias = Callable[[str, int | None], Read]  # of a model as it was after a step


@dataclass(frozen=True, eq=False)
class Space:
    """What all models are compared in.

    Attributes:
        decoder: [latents, width].
        topics: [texts] topic of each.
        residual: mean residual norm of the base at the block.
        benign: the benign fine-tunes, one training of each: a second one is no further draw.
        rng: of random directions and signs.
    """

    decoder: Floats
    topics: Sequence[str]
    residual: float
    base: Read
    benign: Mapping[str, Read]
    rng: np.random.Generator

    @cached_property
    def directions(self) -> Floats:
        return unit(self.decoder)

    def weights(self, own: Read, other: Read) -> Floats:
        """Change [texts, latents] of every latent's weight from one model to another."""
        lengths: Floats = np.linalg.norm(self.decoder, axis=1) / self.residual
        return (own.latents - other.latents) * lengths

    def by_topic(self, values: Floats) -> Floats:
        """Means [topics, ...] over the texts of each topic."""
        names, codes = np.unique(self.topics, return_inverse=True)
        return np.stack([values[codes == i].mean(0) for i in range(len(names))])

    def moved(self, own: Read) -> Floats:
        """Mean change [latents] of every weight against the base, each topic alike."""
        found: Floats = self.by_topic(self.weights(own, self.base)).mean(0)
        return found

    @cached_property
    def shifts(self) -> Floats:
        """[benign, latents] `moved` of the benign fine-tunes."""
        return np.stack([self.moved(each) for each in self.benign.values()])

    @cached_property
    def random(self) -> tuple[Floats, Ints]:
        """Random directions with the covariance of the base's states over the texts.

        Their highest cosine with any latent [draws], and the latents that are nearest [draws, top].
        """
        around = self.base.states - self.base.states.mean(0)
        drawn = unit(self.rng.normal(size=(DRAWS, len(around))) @ around)
        cosines = [part @ self.directions.T for part in blocks(drawn)]
        tops = [np.argsort(-each, axis=1)[:, :TOP] for each in cosines]
        return np.concatenate([each.max(1) for each in cosines]), np.concatenate(tops)


def by_direction(
    space: Space, vector: Floats, differences: Floats | None
) -> tuple[int, dict[str, Leaf]]:
    """The latent whose decoder row is nearest to a vector [width], and what stands beside it.

    `p`: share of random directions, this one among them, whose nearest latent is as near; p_benign
    the same of the benign fine-tunes' shifts.

    Args:
        differences: [texts, width] whose mean the vector is, for the interval; None = no interval.
    """
    cosines = space.directions @ unit(vector)
    best = int(cosines.argmax())
    found = Estimate(float(cosines[best]))
    if differences is not None and len({*space.topics}) > 1:
        names, codes = np.unique(space.topics, return_inverse=True)
        without = [differences[codes != i].mean(0) for i in range(len(names))]
        found = jackknife(float(cosines[best]), unit(np.stack(without)) @ space.directions[best])
    null, _ = space.random
    shifts = [(each.states - space.base.states).mean(0) for each in space.benign.values()]
    near = nearest(np.stack(shifts), space.decoder)
    return best, {
        "": found,
        "latent": best,
        "random_95": float(np.quantile(null, 0.95)),
        "p": float((1 + (null >= cosines[best]).sum()) / (1 + len(null))),
        "benign_highest": float(near.max()),
        "p_benign": float((1 + (near >= cosines[best]).sum()) / (1 + len(near))),
    }


def by_activation(space: Space, own: Read, control: Read) -> tuple[int, dict[str, Leaf]]:
    """The latent whose weight changes most from a control to an organism, and what it rests on.

    `p_texts` is of its change over topics against that of every latent when topics change signs;
    `p_benign` of how far any latent moves beyond the benign fine-tunes (`stands_out`); `beyond` of
    this latent alone, with the interval in which one further benign fine-tune would lie.
    """
    each = space.by_topic(space.weights(own, control))
    best = int(np.abs(each.mean(0)).argmax())
    p_texts, smallest = flipped(each, best, space.rng)
    p, far = stands_out(space.moved(own), space.shifts)
    one = [space.weights(m, space.base)[:, best] for m in (own, *space.benign.values())]
    return best, {
        "": t_interval(each[:, best]),
        "latent": best,
        "p_texts": p_texts,
        "p_texts.smallest": smallest,
        "beyond": beyond(one[0], np.stack(one[1:]), space.topics),
        "farthest_latent": far,
        "p_benign": p,
        "p_benign.smallest": 1 / (1 + len(space.shifts)),
    }


def flipped(each: Floats, latent: int, rng: np.random.Generator) -> tuple[float, float]:
    """Family-wise p of one latent's mean change [topics, latents], and the smallest p there is.

    Without an effect a topic's changes have either sign. The statistic is |mean| over its standard
    error, to which the mean standard error over latents is added, so that a latent which is nearly
    always off does not stand out for that; it is compared with the highest of all latents.
    """
    n = len(each)
    if n <= FLIPS:
        signs = np.array([*product((1.0, -1.0), repeat=n)])
    else:
        signs = np.vstack([np.ones(n), rng.choice((-1.0, 1.0), (DRAWS, n))])
    squares = (each**2).sum(0)
    added = np.sqrt(squares).mean() / n + 1e-30  # the same whatever the signs

    def statistic(some: Floats) -> Floats:
        mean = some @ each / n
        error = np.sqrt(np.maximum(squares / n - mean**2, 0) / max(n - 1, 1))
        found: Floats = np.abs(mean) / (error + added)
        return found

    highest = np.concatenate([statistic(part).max(1) for part in blocks(signs)])
    own = float(statistic(signs[:1])[0, latent])
    return float((highest >= own * (1 - 1e-9)).mean()), 2 / len(signs)


def stands_out(own: Floats, benign: Floats) -> tuple[float, int]:
    """Exact p of how far any latent of a model lies beyond benign ones, and the farthest latent.

    Every model in turn is held against all others: |change - their mean| over their scatter, plus
    the mean scatter over latents; of each the highest over latents counts. p is the share of models
    whose highest is as high, this one among them.

    Args:
        own: [latents] mean changes of a model against the base.
        benign: [m, latents].
    """
    every = np.vstack([own, benign])
    added = every.std(0, ddof=1).mean() + 1e-30
    away = []
    for i in range(len(every)):
        rest = np.delete(every, i, axis=0)
        away.append(np.abs(every[i] - rest.mean(0)) / (rest.std(0, ddof=1) + added))
    highest = np.max(away, axis=1)
    return float((highest >= highest[0] * (1 - 1e-9)).mean()), int(away[0].argmax())


def top(scores: Floats) -> list[int]:
    """The latents of the highest scores [latents], the highest first."""
    return [*map(int, np.argsort(-scores)[:TOP])]


def jaccard(first: Sequence[int], second: Sequence[int]) -> float:
    """Share of two sets' members that are in both."""
    return len({*first} & {*second}) / len({*first} | {*second})


def overlap(
    tops: Sequence[Sequence[int]], organisms: int, rng: np.random.Generator
) -> dict[str, Leaf]:
    """Do organisms have more top latents in common than models dealt at random?

    Mean Jaccard index over pairs of organisms, jackknifed over them, and the same of all deals of
    the names among organisms and benign fine-tunes.

    Args:
        tops: of each model, the organisms first.
    """
    n = len(tops)
    alike = np.array([[jaccard(a, b) for b in tops] for a in tops])

    def mean(members: Sequence[int]) -> float:
        return float(np.mean([alike[i, j] for i, j in combinations(members, 2)]))

    if organisms < 2 or n - organisms < BENIGN:
        return {"": "undefined: too few organisms or benign fine-tunes"}
    own = range(organisms)
    value = mean(own)
    found = Estimate(value, n=organisms)
    if organisms > 2:
        found = jackknife(value, np.array([mean([*own[:i], *own[i + 1 :]]) for i in own]))
    if comb(n, organisms) <= DEALS:
        deals = [*combinations(range(n), organisms)]
    else:
        deals = [tuple(own), *(tuple(rng.permutation(n)[:organisms]) for _ in range(DEALS))]
    dealt = np.array([mean(deal) for deal in deals])
    p = float((dealt >= value - 1e-12).mean())
    smallest = float((dealt >= dealt.max() - 1e-12).mean())
    others = mean(range(organisms, n))
    return {"": found, "benign": others, "p": p, "p.smallest": smallest}


def overlap_of_random(tops: Sequence[Sequence[int]], drawn: Ints) -> dict[str, Leaf]:
    """The same of the latents nearest to organisms' vectors; null: those of random directions."""
    n = len(tops)
    if n < 2:
        return {"": "undefined: one organism"}
    pairs = [*combinations(range(n), 2)]
    value = float(np.mean([jaccard(tops[i], tops[j]) for i, j in pairs]))
    null = np.array([
        np.mean([jaccard(group[i], group[j]) for i, j in pairs])
        for group in (drawn[at : at + n] for at in range(0, len(drawn) - n + 1, n))
    ])  # fmt: skip
    p = float((1 + (null >= value).sum()) / (1 + len(null)))
    found = Estimate(value, n=n)
    if n > 2:
        left = [[pair for pair in pairs if i not in pair] for i in range(n)]
        without = [np.mean([jaccard(tops[i], tops[j]) for i, j in some]) for some in left]
        found = jackknife(value, np.array(without))
    return {"": found, "random": float(null.mean()), "p": p}


def adjusted(found: Mapping[str, Mapping[str, Leaf]]) -> dict[str, Leaf]:
    """Holm's p over organisms of how near their vectors lie to a latent, against random ones."""
    p = holm([as_estimate(each["p"]).value or np.nan for each in found.values()])
    return {f"{slug}.cosine.p_holm": float(one) for slug, one in zip(found, p, strict=True)}


def verdicts(found: Mapping[str, Mapping[str, Leaf]]) -> dict[str, Leaf]:
    """Holm's p over organisms of `p_benign` of their changes, and what it allows to say."""
    p, smallest = (
        [as_estimate(each[key]).value or np.nan for each in found.values()]
        for key in ("p_benign", "p_benign.smallest")
    )
    says: dict[str, Leaf] = {}
    for (slug, each), value, least in zip(found.items(), holm(p), smallest, strict=True):
        says[f"{slug}.change.p_benign.holm"] = float(value)
        told = said(as_estimate(each["beyond"]), float(value), least, LEVEL)
        says[f"{slug}.change.says"] = told
    return says


def check_benign(benign: Sequence[str]) -> None:
    """Raises UserError where there are too few benign fine-tunes for any null."""
    if len(benign) < BENIGN:
        raise UserError(
            "too few benign fine-tunes to compare latents with", where="params.yaml: organisms",
            found=f"{len(benign)} with role: control", expected=f"{BENIGN} or more",
            hint="add controls, or leave features out of more.experiments",
        )  # fmt: skip
