"""Does a shift of activations lie along known misalignment directions, and since when?

docs/method.md: monitoring. A shift is the activation of a model in training minus the base's on the
same prompt or text. Each detector gives every shift one number. What a training has beyond benign
trainings after as many steps is read against how far those scatter: a direction *shows* from the
step on from which the interval of that excess stays above 0, and so does misbehaviour, by margins.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from em_geometry.errors import UserError
from em_geometry.io.results import Leaf, as_estimate
from em_geometry.settings import Monitoring, Organism, Training
from em_geometry.stats.agreement import auroc
from em_geometry.stats.estimate import Estimate, Floats
from em_geometry.stats.retraining import total_distance
from em_geometry.vectors.contrasts import recipe_controls

OWN, ONE, MANY = "own", "one", "k"
UNSEEN_ONE, UNSEEN_MANY, SIZE = "unseen_one", "unseen_k", "size"
MARGIN = "margin"  # the behaviour, beside the detectors
RANK = 1e-6  # singular values below this share of the largest span nothing
NEVER = "never"
BENIGN = 2  # trainings at least, which say how far such trainings scatter

Detector: TypeAlias = Callable[[Floats], Floats]  # shifts [..., width] -> one number [...] a shift


def unmeasured(
    settings: Monitoring, training: Training, organisms: Mapping[str, Organism]
) -> str | None:
    """Why no training is monitored; None when one is; UserError for an unknown organism."""
    chosen, known = settings.organisms, [m for m, o in organisms.items() if o.role == "organism"]
    if not set(chosen) <= set(known):
        raise UserError(
            "only organisms of the run can be monitored",
            where="params.yaml: monitoring.organisms",
            found=", ".join(chosen),
            expected="of " + ", ".join(known),
        )
    if not chosen:
        return "not measured: monitoring.organisms is empty"
    if any(organisms[slug].source is not None for slug in chosen):
        return "not measurable: organisms are loaded, not trained"
    if not training.checkpoints:
        return "not measured: training.checkpoints is empty"
    if len(benign(organisms)) < BENIGN:
        return f"not measurable: {len(benign(organisms))} benign trainings here, {BENIGN} needed"
    return None


def benign(organisms: Mapping[str, Organism]) -> list[str]:
    """The benign trainings of the run; a repeat is no further draw of what benign training does."""
    return [
        m for m, o in organisms.items()
        if o.role == "control" and o.source is None and o.repeats is None
    ]  # fmt: skip


def apart(organisms: Mapping[str, Organism], contrast: str, vectors: Collection[str]) -> list[str]:
    """The benign trainings that no vector of these organisms subtracts in this contrast."""
    own = recipe_controls(organisms)
    used = {own[m] for m in vectors if contrast == "control_contrast"}
    return [m for m in benign(organisms) if m not in used]


def made_of(clusters: Mapping[str, str], slug: str) -> dict[str, list[str]]:
    """Detector of organism `slug` -> the organisms whose vectors it is made of.

    `own` is its own vector, known beforehand; `one` the mean direction of all unit vectors and
    `k` their span; `unseen_one` and `unseen_k` are made of the other clusters' vectors only, so
    that its mechanism is unseen; `size` knows no direction.
    """
    every, others = list(clusters), [m for m in clusters if clusters[m] != clusters[slug]]
    return {OWN: [slug], ONE: every, MANY: every, UNSEEN_ONE: others, UNSEEN_MANY: others, SIZE: []}


def detectors(
    vectors: Mapping[str, Floats], clusters: Mapping[str, str], slug: str
) -> dict[str, Detector | str]:
    """All detectors of organism `slug` (`made_of`), or why there is none.

    Args:
        vectors: organism -> vector [width], not zero.
        clusters: of the same organisms.
    """

    def made(name: str, sources: Sequence[str]) -> Detector | str:
        if name == SIZE:
            return lambda shifts: np.asarray(np.linalg.norm(shifts, axis=-1))
        if not sources:
            return "undefined: no vector of another cluster"
        unit = np.stack([vectors[m] / np.linalg.norm(vectors[m]) for m in sources])
        return within_span(unit) if name in (MANY, UNSEEN_MANY) else along_mean(unit)

    return {name: made(name, sources) for name, sources in made_of(clusters, slug).items()}


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


def beyond(own: Floats, others: Floats, groups: Sequence[str]) -> Estimate:
    """Mean over rows of a training's scores minus the mean of benign trainings'.

    The interval holds the rows, drawn by group, and how far one further benign training would lie
    from the mean of those: sd^2 (1 + 1/m) over m of them, by Student's t.

    Args:
        own: [rows] scores.
        others: [m, rows] of benign trainings after as many steps.
        groups: [rows] topic, file or question of each.
    """
    names, codes = np.unique(groups, return_inverse=True)
    differences = np.bincount(codes, own - others.mean(0)) / np.bincount(codes)
    value, n, m = float(differences.mean()), len(names), len(others)
    if n < 2 or m < BENIGN:
        return Estimate(value, n=n)
    scatter = others.mean(1).var(ddof=1) * (1 + 1 / m)
    half = total_distance([(differences.var(ddof=1) / n, n - 1), (float(scatter), m - 1)])
    return Estimate(value, value - half, value + half, n)


def excess(own: Floats, others: Floats, groups: Sequence[str]) -> dict[str, Leaf]:
    """`beyond` at the key "", its parts, and how a training ranks among the benign ones.

    `p` is the share of trainings, this one among them, whose mean is as large; `auroc` the chance
    that a row of it lies above a benign one's, ties half.
    """
    means = others.mean(1)
    positive = np.repeat([True, False], [len(own), others.size])
    return {
        "": beyond(own, others, groups),
        "mean": float(own.mean()),
        "benign_mean": float(means.mean()),
        "benign_highest": float(means.max()),
        "p": float((1 + (means >= own.mean()).sum()) / (1 + len(means))),
        "auroc": auroc(positive, np.concatenate([own, others.ravel()])),
    }


def course(
    steps: Sequence[int], own: Floats, others: Floats, groups: Sequence[str]
) -> list[dict[str, Leaf]]:
    """`excess` at each step, from scores [steps, rows] and [m, steps, rows]."""
    return [excess(own[i], others[:, i], groups) for i in range(len(steps))]


def first_above(steps: Sequence[int], found: Sequence[Leaf]) -> int | None:
    """The first step from which on every interval lies wholly above 0; None when the last does not.

    One of several looks lies above by chance more often than one.
    """
    first = None
    for step, each in zip(reversed(steps), reversed(found), strict=True):
        low = as_estimate(each).low
        if low is None or low <= 0:
            break
        first = step
    return first


def compared(direction: int | None, behaviour: int | None) -> str:
    """Whether the direction shows before the behaviour, from the first step of each."""
    if direction is None:
        return "neither shows" if behaviour is None else "only the behaviour shows"
    if behaviour is None:
        return "only the direction shows"
    if direction == behaviour:
        return "at the same checkpoint"
    return "before the behaviour" if direction < behaviour else "after the behaviour"


def results_of(
    slug: str,
    steps: Sequence[int],
    courses: Mapping[str, list[dict[str, Leaf]]],
    undefined: Mapping[str, str],
) -> dict[str, Leaf]:
    """What one training's courses say, by dotted key.

    Args:
        courses: detector, and the behaviour -> `course`.
        undefined: detector -> why there is none.
    """
    behaviour = first_above(steps, [at[""] for at in courses[MARGIN]])
    results: dict[str, Leaf] = {f"{slug}.behaviour.first_step": behaviour or NEVER}
    results |= {f"{slug}.detector.{name}": why for name, why in undefined.items()}
    for name, at_steps in courses.items():
        for step, at in zip(steps, at_steps, strict=True):
            key = f"{slug}.checkpoint.step_{step}.{name}"
            results |= {f"{key}.{k}".rstrip("."): leaf for k, leaf in at.items()}
        if name != MARGIN:
            first = first_above(steps, [at[""] for at in at_steps])
            results[f"{slug}.detector.{name}.first_step"] = first or NEVER
            results[f"{slug}.detector.{name}.warns"] = compared(first, behaviour)
    return results


def series(
    steps: Sequence[int], courses: Mapping[str, list[dict[str, Leaf]]]
) -> Iterator[tuple[str, dict[int, float]]]:
    """Columns of a plot: detector, and step -> excess."""
    for name, at_steps in courses.items():
        values = [as_estimate(at[""]).value for at in at_steps]
        yield name, {s: v for s, v in zip(steps, values, strict=True) if v is not None}
