"""Latents as detectors beside directions: chosen on one training, tested on its repeat.

docs/method.md: features, monitoring. What a training has beyond benign ones after as many steps.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from em_geometry.io.results import Leaf
from em_geometry.monitoring.detection import (
    BENIGN,
    OWN,
    SIZE,
    Detector,
    along_mean,
    benign,
    excess,
)  # fmt: skip
from em_geometry.more.features.latents import Read, Reader, Space
from em_geometry.more.features.sparse import unit
from em_geometry.settings import Organism
from em_geometry.stats.estimate import Floats
from em_geometry.vectors.contrasts import recipe_controls

Course = Mapping[str, tuple[Read, Mapping[str, Read]]]  # a training and benign ones, by time
CHOSEN = 5  # latents of a detector: one alone is off in many texts
LATENTS, NEAREST = "latents", "nearest"


def of_change(change: Floats) -> tuple[list[int], Detector]:
    """The latents whose weights [texts, latents] change most, and their sum, each by its sign."""
    mean = change.mean(0)
    best = np.argsort(-np.abs(mean))[:CHOSEN]
    signs = np.sign(mean[best])
    return [*map(int, best)], lambda weights: np.asarray(weights[..., best] @ signs)


def of_vector(space: Space, vector: Floats) -> tuple[list[int], Detector]:
    """The latents nearest to a vector [width], and the sum of their weights."""
    best = np.argsort(-space.directions @ unit(vector))[:CHOSEN]
    return [*map(int, best)], lambda weights: np.asarray(weights[..., best].sum(-1))


def courses(
    read: Reader, organisms: Mapping[str, Organism], checkpoints: Sequence[int]
) -> dict[str, Course]:
    """Organisms that are trained again, with benign trainings, at each checkpoint and the end.

    Not the control of the organism's own recipe, against which latents are chosen.
    """
    found: dict[str, Course] = {}
    controls = recipe_controls(organisms)
    steps = {f"step_{step}": step for step in checkpoints} | {"end": None}
    for slug, entry in organisms.items():
        if entry.role == "organism" and entry.repeats and entry.source is None:
            others = [m for m in benign(organisms) if m != controls[entry.repeats]]
            found[slug] = {
                name: (read(slug, step), {m: read(m, step) for m in others})
                for name, step in steps.items()
            }
    return found


def of_repeat(
    space: Space,
    first: tuple[Read, Read],
    vector: Floats,
    course: Course,
) -> dict[str, Leaf]:
    """What each detector says of a repeated training.

    `p` is exact: the share of trainings, this one among them, whose mean score is as high.

    Args:
        first: the original organism and its control, on which latents are chosen.
        vector: [width] of the original, the detector `own`.
        course: at each time, the repeat and benign trainings, none of which is that control.
    """
    changed, along = of_change(space.weights(*first))
    close, sum_of_close = of_vector(space, vector)
    direction = along_mean(unit(vector)[None])
    assert not isinstance(direction, str)
    size: Detector = lambda shifts: np.asarray(np.linalg.norm(shifts, axis=-1))  # noqa: E731
    ways = {OWN: direction, SIZE: size}
    found: dict[str, Leaf] = {
        f"{LATENTS}.chosen": ", ".join(map(str, changed)),
        f"{NEAREST}.chosen": ", ".join(map(str, close)),
    }
    for time, (own, others) in course.items():
        if len(others) < BENIGN:
            return found | {"status": f"undefined: {len(others)} benign trainings apart"}
        every = [own, *others.values()]
        weights = np.stack([space.weights(m, space.base) for m in every])
        shifts = np.stack([(m.states - space.base.states) / space.residual for m in every])
        scores = {LATENTS: along(weights), NEAREST: sum_of_close(weights)}
        scores |= {name: way(shifts) for name, way in ways.items()}
        for name, each in scores.items():
            told = excess(each[0], each[1:], space.topics)
            found |= {f"{time}.{name}.{k}".rstrip("."): leaf for k, leaf in told.items()}
            found[f"{time}.{name}.p.smallest"] = 1 / len(every)
    return found
