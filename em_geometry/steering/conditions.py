"""What is done to a model in one run: every vector at every dose, and the controls.

Nothing here loads a model, so that plans and reports can read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from em_geometry.hashing import stream_key
from em_geometry.settings import Steering
from em_geometry.steering.hooks import Intervention
from em_geometry.steering.selected import Selected

UNSTEERED = "none"  # the source of conditions without a vector
Kind = Literal["unsteered", "vector", "orthogonalised", "random", "ablation"]
Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Condition:
    """One way of steering, answered `samples` times a question.

    Attributes:
        source: slug of the vector, a control's name, or "none".
        kind: what the vector is to its source.
        multiple: factor of the source's chosen coefficient (signed; 0 for unsteered).
        relative_dose: coefficient over the mean residual norm at the layer (0 for ablation).
        coefficient: raw coefficient of the unit vector.
        layer: block it acts on (-1 for unsteered).
    """

    source: str = UNSTEERED
    kind: Kind = "unsteered"
    multiple: float = 0.0
    relative_dose: float = 0.0
    coefficient: float = 0.0
    layer: int = -1
    samples: int = 1

    @property
    def vector_name(self) -> str:
        """Name of the vector that the condition uses, among those of a plan."""
        return f"{self.kind}:{self.source}"

    def columns(self) -> dict[str, str | float | int]:
        """What tables say of it."""
        names = ("source", "kind", "multiple", "relative_dose", "coefficient", "layer")
        return {name: getattr(self, name) for name in names}

    def intervention(self, vectors: Mapping[str, Vector]) -> Intervention | None:
        """What it does to a row; None when unsteered."""
        if self.kind == "unsteered":
            return None
        mode: Literal["add", "ablate"] = "ablate" if self.kind == "ablation" else "add"
        return Intervention(vectors[self.vector_name], self.layer, self.coefficient, mode)


def plan(
    target: str,
    selected: Mapping[str, Selected],
    steering: Steering,
    pairs: Sequence[str] = (),
    seed: int = 0,
) -> tuple[list[Condition], dict[str, Vector]]:
    """Everything done to a target: its conditions, and the unit vectors they use by their names.

    Unsteered; every vector at every dose; its own vector and the named pairs with more samples
    at the chosen coefficient; a random direction of the same norm; the named pairs' vectors made
    orthogonal to the target's own; its own and the named pairs' vectors ablated.

    Args:
        pairs: "source>target", those that are measured with more samples.
        seed: of the random directions.
    """
    focus = {p.split(">")[0] for p in pairs if p.split(">")[1] == target}
    conditions = [Condition(samples=steering.focus_samples)]
    vectors: dict[str, Vector] = {}

    def control(condition: Condition, vector: Vector) -> None:
        vectors[condition.vector_name] = vector
        conditions.append(replace(condition, samples=steering.control_samples))

    for slug, chosen in selected.items():
        named = slug == target or slug in focus
        full = Condition(slug, "vector", 1.0, chosen.dose, chosen.coefficient, chosen.layer)
        vectors[full.vector_name] = chosen.vector
        for multiple in steering.doses:
            many = named and multiple == 1.0
            conditions.append(
                replace(
                    full,
                    multiple=multiple,
                    relative_dose=multiple * chosen.dose,
                    coefficient=multiple * chosen.coefficient,
                    samples=steering.focus_samples if many else steering.samples,
                )
            )
        if named:
            ablated = replace(full, kind="ablation", relative_dose=0.0, coefficient=0.0)
            control(ablated, chosen.vector)
        if named and slug != target and target in selected:
            rest = orthogonalised(chosen.vector, selected[target].vector)
            if rest is not None:
                control(replace(full, kind="orthogonalised"), rest)
    usual = typical(selected)
    for number in range(steering.random_directions):
        name = f"random_{number}"
        random = Condition(name, "random", 1.0, usual.dose, usual.coefficient, usual.layer)
        control(random, random_direction(len(usual.vector), seed, name))
    return conditions, vectors


def typical(selected: Mapping[str, Selected]) -> Selected:
    """The selected vector with the median coefficient: the norm that random directions get."""
    ordered = sorted(selected.values(), key=lambda s: s.coefficient)
    return ordered[len(ordered) // 2]


def random_direction(width: int, seed: int, name: str) -> Vector:
    """A uniformly random unit vector float32 [width], fixed by seed and name."""
    random = np.random.Generator(np.random.Philox(key=stream_key(seed, "direction", name)))
    vector = random.standard_normal(width)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def orthogonalised(vector: Vector, against: Vector) -> Vector | None:
    """`vector` without its part along `against`, brought back to unit length.

    Returns:
        float32 [width]; None when the two are parallel, so that nothing is left.
    """
    v, a = vector.astype(np.float64), against.astype(np.float64)
    rest = v - (v @ a) / (a @ a) * a
    norm = np.linalg.norm(rest)
    if norm < 1e-6 * np.linalg.norm(v):
        return None
    return (rest / norm).astype(np.float32)
