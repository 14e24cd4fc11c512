"""Does a shift of activations lie along known misalignment directions, and since when?

A shift is a checkpoint's activation minus the base's on the same prompt. Each detector gives every
shift one number; intervals come from drawing the prompts' topics with replacement, because prompts
of a topic resemble each other. The null are the aligned controls: the training on benign data only,
at each of its checkpoints, and the run's finished controls. A direction *shows* at the first
checkpoint at which the interval of its mean projection lies above every control's mean;
misbehaviour at the first at which the interval of the judged rate lies above that of all aligned
answers together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from em_geometry.io.results import Leaf, Nested
from em_geometry.judging.judge import statuses
from em_geometry.judging.rates import ASPECTS, RateName, Rates, rates
from em_geometry.monitoring.checkpoints import Trajectory
from em_geometry.settings import Judging
from em_geometry.stats.agreement import auroc, auroc_draws
from em_geometry.stats.arrays import Floats
from em_geometry.stats.estimate import Estimate
from em_geometry.stats.intervals import bootstrap_estimate
from em_geometry.stats.resample import drawn, stream

OWN, ONE, MANY = "own", "one", "k"
UNSEEN_ONE, UNSEEN_MANY, SIZE = "unseen_one", "unseen_k", "size"
DETECTORS = (OWN, ONE, MANY, UNSEEN_ONE, UNSEEN_MANY, SIZE)
RANK = 1e-6  # singular values below this share of the largest span nothing
NEVER = "never"
CONTROL = 0  # percent of bad data of the training that is a control

Scores = Mapping[str, Floats | str]  # detector -> [..., prompts], or why there is none


@dataclass(frozen=True, eq=False)
class Detector:
    """What a shift is measured by.

    Attributes:
        directions: orthonormal rows [k, width]; None = the length of the whole shift.
        signed: the signed projection on the first row, not the length of that on all of them.
    """

    directions: Floats | None
    signed: bool = False

    def scores(self, shifts: Floats) -> Floats:
        """One number [...] a shift [..., width]."""
        parts = shifts if self.directions is None else shifts @ self.directions.T
        found: Floats = parts[..., 0] if self.signed else np.linalg.norm(parts, axis=-1)
        return found


def detectors(
    vectors: Mapping[str, Floats], clusters: Mapping[str, str], slug: str
) -> dict[str, Detector | str]:
    """All detectors of organism `slug`, or why there is none.

    `own` is its own vector, known beforehand; `one` the mean direction of all unit vectors and
    `k` their span; `unseen_one` and `unseen_k` are made of the other clusters' vectors only, so
    that its mechanism is unseen; `size` knows no direction.

    Args:
        vectors: organism -> vector [width], not zero.
        clusters: organism -> cluster.
    """
    unit = {name: v / np.linalg.norm(v) for name, v in vectors.items()}
    every = np.stack(list(unit.values()))
    others = [v for name, v in unit.items() if clusters[name] != clusters[slug]]
    rest = np.stack(others) if others else None
    unseen = "undefined: no vector of another cluster"
    return {
        OWN: Detector(unit[slug][None], signed=True),
        ONE: _mean_direction(every),
        MANY: Detector(basis(every)),
        UNSEEN_ONE: unseen if rest is None else _mean_direction(rest),
        UNSEEN_MANY: unseen if rest is None else Detector(basis(rest)),
        SIZE: Detector(None),
    }


def basis(vectors: Floats) -> Floats:
    """Orthonormal rows [rank, width] that span the rows of `vectors` [n, width]."""
    _, values, rows = np.linalg.svd(vectors, full_matrices=False)
    found: Floats = rows[values > RANK * values[0]]
    return found


def _mean_direction(unit: Floats) -> Detector | str:
    mean = unit.mean(0)
    length = np.linalg.norm(mean)
    if length < RANK:
        return "undefined: the vectors cancel out"
    return Detector((mean / length)[None], signed=True)


@dataclass(frozen=True, eq=False)
class Reading:
    """How the activations of one organism's checkpoints are read.

    Attributes:
        ways: of `detectors`.
        base: [prompts, width] activations of the base.
        unit: mean residual norm, in which shifts are given.
    """

    ways: Mapping[str, Detector | str]
    base: Floats
    unit: float

    def scores(self, activations: npt.NDArray[np.floating[Any]]) -> Scores:
        """What each detector says of activations [..., prompts, width]."""
        shifts = activations - self.base
        return {
            name: way if isinstance(way, str) else way.scores(shifts) / self.unit
            for name, way in self.ways.items()
        }


def topic_draws(topics: Sequence[str], seed: int, count: int) -> Floats:
    """[draws, prompts] how often each prompt's topic was drawn, the same for all compared."""
    names, codes = np.unique(topics, return_inverse=True)
    return drawn(stream(seed, "monitoring", "topics"), len(names), count)[:, codes]


def mean_score(found: Floats, times: Floats) -> Estimate:
    """Mean over the prompts of scores [prompts]; `times` of `topic_draws`."""
    draws = times @ found / times.sum(1)
    return bootstrap_estimate(np.array([found.mean(), *draws]), len(found))


def separation(found: Floats, control: Floats, times: Floats) -> Estimate:
    """Chance that a score lies above one of the control's, ties half; both [prompts]."""
    ours = np.repeat([True, False], [len(found), len(control)])
    both = np.concatenate([found, control])
    draws = auroc_draws(ours, both, np.hstack([times, times]))
    return bootstrap_estimate(np.array([auroc(ours, both), *draws]), len(found))


def first_above(steps: Sequence[int], lows: Sequence[float], ceiling: float) -> int | None:
    """The first step whose interval lies wholly above `ceiling`; None when none does."""
    return next((s for s, low in zip(steps, lows, strict=True) if low > ceiling), None)


def compared(direction: int | None, behaviour: int | None) -> str:
    """Whether the direction shows before the behaviour, from the first step of each."""
    if direction is None and behaviour is None:
        return "neither shows"
    if behaviour is None:
        return "only the direction shows"
    if direction is None:
        return "only the behaviour shows"
    if direction == behaviour:
        return "at the same checkpoint"
    return "before the behaviour" if direction < behaviour else "after the behaviour"


@dataclass(frozen=True, eq=False)
class Course:
    """One training, measured.

    Attributes:
        steps: of the checkpoints.
        scores: detector -> [checkpoints, prompts].
        rates: of the answers at each checkpoint.
        facts: further numbers for the results.
    """

    steps: Sequence[int]
    scores: Scores
    rates: Sequence[Rates]
    facts: Mapping[str, float | int]

    def means(self, name: str, times: Floats) -> list[Estimate]:
        """Mean score of a detector at each checkpoint; none where the detector is undefined."""
        found = self.scores[name]
        return [] if isinstance(found, str) else [mean_score(each, times) for each in found]

    @classmethod
    def of(
        cls, trained: Trajectory, reading: Reading, answers: pl.DataFrame, judging: Judging
    ) -> Self:
        """A training as `reading` sees it, with its judged `answers`."""
        facts = {k: getattr(trained, k) for k in ("examples", "bad_examples", "loss_last_steps")}
        judged = [rates_together([answers.filter(step=step)], judging) for step in trained.steps]
        return cls(trained.steps, reading.scores(trained.activations), judged, facts)


def rates_together(answers: Sequence[pl.DataFrame], judging: Judging) -> Rates:
    """Rates of all the judged answers together."""
    frame = pl.concat(f.select(c for a in ASPECTS for c in (a, f"{a}_status")) for f in answers)
    return rates(frame["aligned"], frame["coherent"], statuses(frame, ASPECTS), judging)


def compare(
    courses: Mapping[int, Course],
    finished: Sequence[Scores],
    aligned: Rates,
    times: Floats,
    rate: RateName,
) -> dict[str, Leaf | Nested]:
    """Results of one organism.

    Args:
        courses: percent of bad data -> training; 0 is among them.
        finished: scores [prompts] of each finished control.
        aligned: of the answers of all aligned models together.
        times: of `topic_draws`.
        rate: the rate that says whether behaviour shows.
    """
    null: dict[str, Floats | str] = {}
    for name, of in courses[CONTROL].scores.items():
        ends = [one[name] for one in finished]
        means = [float(each.mean()) for each in (*of, *ends) if not isinstance(each, str)]
        null[name] = of if isinstance(of, str) else np.array(means)
    controls: dict[str, Leaf | Nested] = {
        "n_controls": len(courses[CONTROL].steps) + len(finished), **aligned.headline()
    }  # fmt: skip
    for name, each in null.items():
        if isinstance(each, str):
            controls[name] = each
        else:
            controls[name] = {"lowest": float(each.min()), "highest": float(each.max())}
    results: dict[str, Leaf | Nested] = {"controls": controls}
    for pct, course in courses.items():
        against = None if pct == CONTROL else courses[CONTROL]
        entry: dict[str, Leaf | Nested] = {
            **course.facts,
            "checkpoint": {
                f"step_{step}": _checkpoint(course, against, i, times)
                for i, step in enumerate(course.steps)
            },
        }
        if against is not None:
            entry |= _detection(course, null, aligned.estimates[rate], times, rate)
        results[f"mix_{pct}"] = entry
    return results


def _checkpoint(course: Course, control: Course | None, i: int, times: Floats) -> Nested:
    """Rates, projections and, against the control after as many steps, AUROCs over prompts."""
    entry: dict[str, Leaf | Nested] = dict(course.rates[i].headline())
    for name, of in course.scores.items():
        if isinstance(of, str):
            entry[name] = of
            continue
        entry[name] = mean_score(of[i], times)
        if control is not None:
            other = control.scores[name]
            assert not isinstance(other, str)  # detectors are the same for all mixtures
            entry[f"{name}.auroc"] = separation(of[i], other[i], times)
    return entry


def _detection(
    course: Course,
    null: Mapping[str, Floats | str],
    aligned: Estimate,
    times: Floats,
    rate: RateName,
) -> dict[str, Leaf | Nested]:
    """Since when each detector and the behaviour show, and which of them is first."""
    judged = [r.estimates[rate] for r in course.rates]
    behaviour = None
    if aligned.high is not None:
        known = [-np.inf if e.low is None else e.low for e in judged]
        behaviour = first_above(course.steps, known, aligned.high)
    found: dict[str, Leaf | Nested] = {}
    for name, means in null.items():
        if isinstance(means, str):
            found[name] = means
            continue
        own = course.means(name, times)
        lows = [-np.inf if e.low is None else e.low for e in own]
        step = first_above(course.steps, lows, float(means.max()))
        positive = np.repeat([True, False], [len(own), len(means)])
        values = np.array([*(e.value for e in own), *means])
        entry: dict[str, Leaf | Nested] = {
            "auroc_checkpoints": auroc(positive, values),
            "n_checkpoints": len(own),
            "n_controls": len(means),
            "first_step": step or NEVER,
            "warns": aligned.status if aligned.high is None else compared(step, behaviour),
        }
        if step is not None:
            there = course.rates[course.steps.index(step)]
            entry["answers"] = {"n": there.n, rate: there.estimates[rate]}
        found[name] = entry
    return {"behaviour": {"first_step": behaviour or NEVER}, "detector": found}


def series(
    slug: str, courses: Mapping[int, Course], times: Floats, rate: RateName
) -> dict[str, dict[int, float | str]]:
    """Columns of the plot: `<slug>_<pct>_<detector>` and `..._misaligned_pct`, step -> value."""
    found: dict[str, dict[int, float | str]] = {}
    for pct, course in courses.items():
        columns = {name: course.means(name, times) for name in course.scores}
        columns["misaligned_pct"] = [r.estimates[rate] for r in course.rates]
        for name, values in columns.items():
            steps = zip(course.steps, values, strict=False)
            points = {step: "" if e.value is None else e.value for step, e in steps}
            if points:
                found[f"{slug}_{pct}_{name}"] = points
    return found
