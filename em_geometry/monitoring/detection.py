"""Does a shift of activations lie along known misalignment directions, and since when?

A shift is a checkpoint's activation minus the base's on the same prompt. Each detector gives every
shift one number; intervals come from drawing the prompts' topics with replacement, because prompts
of a topic resemble each other. The null are the aligned controls: the training on benign data only,
at each of its checkpoints, and the run's finished controls. A direction *shows* at the first
checkpoint at which the interval of its mean projection lies above every control's mean;
misbehaviour at the first at which the interval of the judged rate lies above that of all aligned
answers together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
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
RANK = 1e-6  # singular values below this share of the largest span nothing
NEVER = "never"
CONTROL = 0  # percent of bad data of the training that is a control

Detector: TypeAlias = Callable[[Floats], Floats]  # shifts [..., width] -> one number [...] a shift
Scores: TypeAlias = Mapping[str, Floats]  # detector -> [..., prompts]


def detectors(
    vectors: Mapping[str, Floats], clusters: Mapping[str, str], slug: str
) -> dict[str, Detector | str]:
    """All detectors of organism `slug`, or why there is none.

    `own` is its own vector, known beforehand; `one` the mean direction of all unit vectors and
    `k` their span; `unseen_one` and `unseen_k` are made of the other clusters' vectors only, so
    that its mechanism is unseen; `size` knows no direction.

    Args:
        vectors: organism -> vector [width], not zero.
    """
    unit = {name: v / np.linalg.norm(v) for name, v in vectors.items()}
    every, others = list(unit), [name for name in unit if clusters[name] != clusters[slug]]

    def made(how: Callable[[Floats], Detector | str], names: Sequence[str]) -> Detector | str:
        if not names:
            return "undefined: no vector of another cluster"
        return how(np.stack([unit[name] for name in names]))

    return {
        OWN: made(along_mean, [slug]),
        ONE: made(along_mean, every),
        MANY: made(within_span, every),
        UNSEEN_ONE: made(along_mean, others),
        UNSEEN_MANY: made(within_span, others),
        SIZE: lambda shifts: np.asarray(np.linalg.norm(shifts, axis=-1)),
    }


def along_mean(unit: Floats) -> Detector | str:
    """The signed projection on the mean of unit rows [n, width]."""
    mean = unit.mean(0)
    length = np.linalg.norm(mean)
    if length < RANK:
        return "undefined: the vectors cancel out"
    return lambda shifts: np.asarray((shifts @ (mean / length)[:, None])[..., 0])


def within_span(rows: Floats) -> Detector:
    """The length of the projection on the span of rows [n, width]."""
    _, values, directions = np.linalg.svd(rows, full_matrices=False)
    basis = directions[values > RANK * values[0]]
    return lambda shifts: np.asarray(np.linalg.norm(shifts @ basis.T, axis=-1))


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


def first_above(steps: Sequence[int], found: Sequence[Estimate], ceiling: float) -> int | None:
    """The first step whose interval lies wholly above `ceiling`; None when none does."""
    above = (s for s, e in zip(steps, found, strict=True) if e.low is not None and e.low > ceiling)
    return next(above, None)


def compared(direction: int | None, behaviour: int | None) -> str:
    """Whether the direction shows before the behaviour, from the first step of each."""
    if direction is None:
        return "neither shows" if behaviour is None else "only the behaviour shows"
    if behaviour is None:
        return "only the direction shows"
    if direction == behaviour:
        return "at the same checkpoint"
    return "before the behaviour" if direction < behaviour else "after the behaviour"


@dataclass(frozen=True, eq=False)
class Course:
    """One training, measured at its checkpoints."""

    steps: Sequence[int]
    scores: Scores  # detector -> [checkpoints, prompts]
    means: Mapping[str, Sequence[Estimate]]  # of the scores, at each checkpoint
    rates: Sequence[Rates]  # of the answers at each checkpoint
    facts: Mapping[str, float | int]  # further numbers for the results


def course(
    trained: Trajectory, scores: Scores, times: Floats, answers: pl.DataFrame, judging: Judging
) -> Course:
    """A training with the scores of its shifts and its judged `answers`."""
    facts = {k: getattr(trained, k) for k in ("examples", "bad_examples", "loss_last_steps")}
    judged = [rates_together([answers.filter(step=step)], judging) for step in trained.steps]
    means = {name: [mean_score(each, times) for each in of] for name, of in scores.items()}
    return Course(trained.steps, scores, means, judged, facts)


def rates_together(answers: Sequence[pl.DataFrame], judging: Judging) -> Rates:
    """Rates of all the judged answers together."""
    frame = pl.concat(f.select(c for a in ASPECTS for c in (a, f"{a}_status")) for f in answers)
    return rates(frame.with_columns(statuses(frame, ASPECTS)), judging)


def compare(
    courses: Mapping[int, Course],
    finished: Sequence[Scores],
    undefined: Mapping[str, str],
    aligned: Rates,
    times: Floats,
    rate: RateName,
) -> dict[str, Leaf | Nested]:
    """Results of one organism.

    Args:
        courses: percent of bad data -> training; 0 is among them.
        finished: scores [prompts] of each finished control.
        undefined: detector -> why there is none.
        aligned: of the answers of all aligned models together.
        rate: the one that says whether behaviour shows.
    """
    control = courses[CONTROL]
    null = {
        name: np.array([each.mean() for each in (*of, *(one[name] for one in finished))])
        for name, of in control.scores.items()
    }
    ranges = {k: {"lowest": float(v.min()), "highest": float(v.max())} for k, v in null.items()}
    count = len(control.steps) + len(finished)
    results: dict[str, Leaf | Nested] = {
        "controls": {"n_controls": count, **aligned.headline(), **ranges}
    }
    for pct, own in courses.items():
        other = None if pct == CONTROL else control
        steps = {f"step_{s}": _checkpoint(own, other, i, times) for i, s in enumerate(own.steps)}
        found = _detection(own, null, undefined, aligned.estimates[rate], rate) if other else {}
        results[f"mix_{pct}"] = {**own.facts, "checkpoint": steps, **found}
    return results


def _checkpoint(own: Course, control: Course | None, i: int, times: Floats) -> Nested:
    """Rates, projections and, against the control after as many steps, AUROCs over prompts."""
    entry: dict[str, Leaf] = dict(own.rates[i].headline())
    for name, of in own.scores.items():
        entry[name] = own.means[name][i]
        if control:
            entry[f"{name}.auroc"] = separation(of[i], control.scores[name][i], times)
    return entry


def _detection(
    own: Course,
    null: Mapping[str, Floats],
    undefined: Mapping[str, str],
    aligned: Estimate,
    rate: RateName,
) -> dict[str, Nested]:
    """Since when each detector and the behaviour show, and which of them is first."""
    behaviour = None
    if aligned.high is not None:
        behaviour = first_above(own.steps, [r.estimates[rate] for r in own.rates], aligned.high)
    found: dict[str, Leaf | Nested] = dict(undefined)
    for name, controls in null.items():
        means = own.means[name]
        step = first_above(own.steps, means, float(controls.max()))
        positive = np.repeat([True, False], [len(means), len(controls)])
        entry: dict[str, Leaf | Nested] = {
            "auroc_checkpoints": auroc(positive, np.array([*(e.value for e in means), *controls])),
            "n_checkpoints": len(means),
            "n_controls": len(controls),
            "first_step": step or NEVER,
            "warns": aligned.status if aligned.high is None else compared(step, behaviour),
        }
        if step is not None:
            there = own.rates[own.steps.index(step)]
            entry["answers"] = {"n": there.n, rate: there.estimates[rate]}
        found[name] = entry
    return {"behaviour": {"first_step": behaviour or NEVER}, "detector": found}


def series(
    slug: str, courses: Mapping[int, Course], rate: RateName
) -> dict[str, dict[int, float | str]]:
    """Columns of the plot: `<slug>_<pct>_<detector>` and `..._misaligned_pct`, step -> value."""
    found: dict[str, dict[int, float | str]] = {}
    for pct, own in courses.items():
        columns = {**own.means, "misaligned_pct": [r.estimates[rate] for r in own.rates]}
        for name, values in columns.items():
            points = ("" if e.value is None else e.value for e in values)
            found[f"{slug}_{pct}_{name}"] = dict(zip(own.steps, points, strict=True))
    return found
