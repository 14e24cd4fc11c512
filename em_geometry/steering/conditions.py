"""What is done to a model: vectors that the sweep chose, and every dose and control of a run.

Nothing here loads a model, so that plans and reports can read it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from em_geometry.errors import UserError
from em_geometry.hashing import stream_key
from em_geometry.io.files import read_tensors, write_tensors
from em_geometry.settings import Steering

Vector: TypeAlias = npt.NDArray[np.float32]
Kind = Literal["unsteered", "vector", "orthogonalised", "random", "ablation"]
Positions = Literal["all", "prompt", "response"]  # tokens that interventions act on
UNSTEERED = "none"  # the source of conditions without a vector
FIELDS = {"layers": "layer", "doses": "dose", "coefficients": "coefficient", "norms": "norm"}


@dataclass(frozen=True, eq=False)
class Intervention:
    """What is done to one row.

    Attributes:
        vector: float32 [width]; unit length for ablation.
        layer: block at whose output it acts.
        coefficient: raw factor of the vector (units of the residual stream); unused by ablation.
    """

    vector: Vector
    layer: int
    coefficient: float = 0.0
    mode: Literal["add", "ablate"] = "add"

    @property
    def active(self) -> bool:
        return self.mode == "ablate" or self.coefficient != 0.0


def check_vector(vector: npt.NDArray[Any], width: int, name: str) -> None:
    """Raises UserError unless `vector` is finite, not zero and of the model's width."""
    bad = int((~np.isfinite(vector)).sum())
    if vector.shape != (width,):
        what, found = "the vector does not fit the model's residual stream", f"shape {vector.shape}"
    elif bad:
        what, found = "the vector has NaN or infinite entries", f"{bad} of {vector.size} entries"
    elif not np.linalg.norm(vector) > 0:
        what, found = "the vector is zero", "length 0"
    else:
        return
    raise UserError(what, where=name, found=found, expected=f"{width} numbers, not all of them 0")


@dataclass(frozen=True, eq=False)
class Selected:
    """One organism's steering vector.

    Attributes:
        vector: unit float32 [width].
        layer: block at whose output it acts.
        dose: relative dose, the coefficient as a share of the mean residual norm there.
        coefficient: dose times residual norm, factor of the unit vector.
        norm: length of the raw difference of means.
        contrast, span: how it was built; the same for all vectors of a file.
    """

    vector: Vector
    layer: int
    dose: float
    coefficient: float
    norm: float
    contrast: str = "model_contrast"
    span: str = "prompt_last"


def write_selected(
    path: Path, vectors: Mapping[str, Selected], metadata: Mapping[str, str]
) -> None:
    """Writes the chosen vectors; per-vector numbers go into the metadata as JSON by slug."""
    described = {
        name: json.dumps({slug: getattr(s, field) for slug, s in vectors.items()})
        for name, field in FIELDS.items()
    }
    for s in vectors.values():
        described |= {"contrast": s.contrast, "span": s.span}
    tensors = {slug: s.vector.astype(np.float32) for slug, s in vectors.items()}
    write_tensors(path, tensors, {**metadata, **described})


def read_selected(path: Path, organisms: Collection[str] = ()) -> dict[str, Selected]:
    """Reads the chosen vectors by organism, in the order they were written.

    Args:
        organisms: those that must be there.
    Raises:
        UserError: no such file, a missing field or organism, a vector that is not of unit length.
    """
    tensors, metadata = read_tensors(path)
    try:
        numbers = {field: json.loads(metadata[name]) for name, field in FIELDS.items()}
        how: Any = {"contrast": metadata["contrast"], "span": metadata["span"]}
        found = {
            slug: Selected(tensors[slug], **{f: each[slug] for f, each in numbers.items()}, **how)
            for slug in numbers["layer"]
        }
    except (KeyError, json.JSONDecodeError) as error:
        raise UserError(
            "not a file of selected steering vectors",
            where=str(path),
            found=f"no {error}",
            expected="what `dvc repro layer_sweep` writes",
        ) from None
    for slug, selected in found.items():
        length = float(np.linalg.norm(selected.vector))
        if not abs(length - 1.0) < 1e-3:
            where = f"{path}: {slug}"
            raise UserError("a vector is not of unit length", where=where, found=length)
    if not set(organisms) <= set(found):
        raise UserError(
            "the selected vectors are not those of the organisms in the params",
            where=str(path),
            found=", ".join(found),
            expected=", ".join(organisms),
            hint="dvc repro layer_sweep",
        )
    return found


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
    """`vector` [width] without its part along `against`, at unit length; None where parallel."""
    v, a = vector.astype(np.float64), against.astype(np.float64)
    rest = v - (v @ a) / (a @ a) * a
    norm = np.linalg.norm(rest)
    return None if norm < 1e-6 * np.linalg.norm(v) else (rest / norm).astype(np.float32)
