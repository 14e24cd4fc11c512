"""What is done to a model: vectors that the sweep chose, and under which a model answers.

Nothing here loads a model, so that plans and reports can read it.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from em_geometry.errors import UserError, explained
from em_geometry.hashing import stream
from em_geometry.io.files import read_tensors, write_tensors
from em_geometry.settings import BASE, Steering

Vector: TypeAlias = npt.NDArray[np.float32]
Kind = Literal["unsteered", "vector", "random"]
Positions = Literal["all", "prompt", "response"]  # tokens that interventions act on
UNSTEERED = "none"  # the source of conditions without a vector
AGAIN = "save it again, as tensors alone"
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


def holds_selected(path: Path) -> bool:
    """Whether a file is one that `write_selected` wrote."""
    return path.suffix == ".safetensors" and FIELDS.keys() <= read_tensors(path, AGAIN)[1].keys()


def read_selected(path: Path, organisms: Collection[str] = ()) -> dict[str, Selected]:
    """Reads the chosen vectors by organism, in the order they were written.

    Args:
        organisms: those that must be there.
    Raises:
        UserError: no such file, a missing field or organism, a vector that is not of unit length.
    """
    tensors, metadata = read_tensors(path)
    what, expected = (
        "not a file of selected steering vectors",
        "what `dvc repro layer_sweep` writes",
    )
    with explained(what, path, expected, kinds=(KeyError, ValueError)):
        numbers = {field: json.loads(metadata[name]) for name, field in FIELDS.items()}
        how: Any = {"contrast": metadata["contrast"], "span": metadata["span"]}
        found = {
            slug: Selected(tensors[slug], **{f: each[slug] for f, each in numbers.items()}, **how)
            for slug in numbers["layer"]
        }
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
        source: slug of the vector, name of a random direction, or "none".
        multiple: factor of the source's chosen coefficient (0 for unsteered).
        relative_dose: coefficient over the mean residual norm at the layer.
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

    def columns(self) -> dict[str, str | float | int]:
        """What tables say of it."""
        names = ("source", "kind", "multiple", "relative_dose", "coefficient", "layer")
        return {name: getattr(self, name) for name in names}

    def intervention(self, vectors: Mapping[str, Vector]) -> Intervention | None:
        """What it does to a row, with one of these vectors by source; None when unsteered."""
        if self.kind == "unsteered":
            return None
        return Intervention(vectors[self.source], self.layer, self.coefficient)


def plan(
    target: str,
    selected: Mapping[str, Selected],
    steering: Steering,
    named: Sequence[tuple[str, str]] = (),
    seed: int = 0,
) -> tuple[list[Condition], dict[str, Vector]]:
    """Under what a target answers: its conditions, and the unit vectors that they use by source.

    All at the chosen coefficient: the base under every vector, an organism under its own and those
    of the named pairs, both under random directions of the same norm. Unsteered answers are those
    of the stage `baseline_responses`.

    Args:
        named: (source, target) of the named pairs.
        seed: of the random directions.
    """
    sources = {target, *(source for source, other in named if other == target)}
    conditions: list[Condition] = []
    vectors: dict[str, Vector] = {}

    def add(source: str, kind: Kind, vector: Vector, norm: Selected, samples: int) -> None:
        at = norm.dose, norm.coefficient, norm.layer
        conditions.append(Condition(source, kind, 1.0, *at, samples))
        vectors[source] = vector

    for slug, chosen in selected.items():
        if target == BASE or slug in sources:
            add(slug, "vector", chosen.vector, chosen, steering.samples)
    usual = typical(selected)
    for number in range(steering.random_directions):
        name = f"random_{number}"
        vector = random_direction(len(usual.vector), seed, name)
        add(name, "random", vector, usual, steering.control_samples)
    return conditions, vectors


def typical(selected: Mapping[str, Selected]) -> Selected:
    """The selected vector with the median coefficient: the norm that random directions get."""
    ordered = sorted(selected.values(), key=lambda s: s.coefficient)
    return ordered[len(ordered) // 2]


def random_direction(width: int, seed: int, name: str) -> Vector:
    """A uniformly random unit vector float32 [width], fixed by seed and name."""
    vector = stream(seed, "direction", name).standard_normal(width)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def orthogonalised(vector: Vector, against: Vector) -> Vector | None:
    """`vector` [width] without its part along `against`, at unit length; None where parallel."""
    v, a = vector.astype(np.float64), against.astype(np.float64)
    rest = v - (v @ a) / (a @ a) * a
    norm = np.linalg.norm(rest)
    return None if norm < 1e-6 * np.linalg.norm(v) else (rest / norm).astype(np.float32)
