"""The steering vectors that the sweep chose, one per organism: unit vector, block, coefficient."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from em_geometry.errors import UserError
from em_geometry.io.files import read_tensors, write_tensors

FIELDS = {"layers": "layer", "doses": "dose", "coefficients": "coefficient", "norms": "norm"}


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

    vector: npt.NDArray[np.float32]
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
