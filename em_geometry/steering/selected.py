"""The steering vectors that the sweep chose, one per organism: unit vector, block, coefficient."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from em_geometry.errors import UserError
from em_geometry.io.files import read_tensors, write_tensors

PATH = Path("data/vectors/selected.safetensors")


@dataclass(frozen=True, eq=False)
class Selected:
    """One organism's steering vector.

    Attributes:
        vector: unit float32 [width].
        layer: block at whose output it acts.
        dose: relative dose, the coefficient as a share of the mean residual norm there.
        coefficient: dose times residual norm, factor of the unit vector.
        norm: length of the raw difference of means.
    """

    vector: np.ndarray
    layer: int
    dose: float
    coefficient: float
    norm: float


def write_selected(vectors: Mapping[str, Selected], metadata: Mapping[str, str]) -> None:
    """Writes the chosen vectors; per-vector numbers go into the metadata as JSON by slug."""
    described = {
        name: json.dumps({slug: getattr(s, field) for slug, s in vectors.items()})
        for name, field in (
            ("layers", "layer"),
            ("doses", "dose"),
            ("coefficients", "coefficient"),
            ("norms", "norm"),
        )
    }
    tensors = {slug: s.vector.astype(np.float32) for slug, s in vectors.items()}
    write_tensors(PATH, tensors, {**metadata, **described})


def read_selected(path: Path = PATH) -> dict[str, Selected]:
    """Reads the chosen vectors by organism, in the order they were written.

    Raises:
        UserError: no such file, a missing field, a vector that is not of unit length.
    """
    tensors, metadata = read_tensors(path)
    try:
        layers, doses, coefficients, norms = (
            json.loads(metadata[k]) for k in ("layers", "doses", "coefficients", "norms")
        )
        found = {
            slug: Selected(
                tensors[slug], layers[slug], doses[slug], coefficients[slug], norms[slug]
            )
            for slug in layers
        }
    except (KeyError, json.JSONDecodeError) as error:
        raise UserError(
            "not a file of selected steering vectors",
            where=str(path),
            found=f"no {error}",
            hint="run the stage that writes it again: dvc repro layer_sweep",
        ) from None
    for slug, selected in found.items():
        if not abs(float(np.linalg.norm(selected.vector)) - 1.0) < 1e-3:
            raise UserError(
                "a selected vector is not of unit length",
                where=f"{path}: {slug}",
                found=float(np.linalg.norm(selected.vector)),
                expected=1.0,
            )
    return found
