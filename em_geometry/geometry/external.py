"""Anybody's named directions in the battery, e.g. SAE latents (METHOD.md: `vectors.external`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from em_geometry.errors import UserError
from em_geometry.geometry.battery import Clusters, battery
from em_geometry.geometry.gram import Floats, unit_gram
from em_geometry.geometry.inputs import NAME
from em_geometry.io.files import read_tensors
from em_geometry.settings.sections import Geometry


def read_directions(folder: Path, width: int, taken: Sequence[str]) -> dict[str, Floats]:
    """Every tensor of the safetensors files in `folder`: name -> direction [width].

    Args:
        taken: names that a direction must not have, because the organisms have them.
    Raises:
        UserError: no such folder; a file, name or vector that cannot be used.
    """
    if not folder.is_dir():
        raise UserError(
            "no such folder", where=f"params.yaml: vectors.external: {folder}",
            found="nothing there", expected="a folder of safetensors files, or an empty one",
        )  # fmt: skip
    found: dict[str, Floats] = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, vector in read_tensors(path)[0].items():
            where = f"{path}: {name}"
            if name in found or name in taken or not NAME.fullmatch(name):
                raise UserError(
                    "a direction's name is taken, or holds a space, a dot or `__`", where=where,
                    found=name, expected="a name of its own, which the metrics' keys are made of",
                )  # fmt: skip
            if vector.shape != (width,) or not np.isfinite(vector).all() or not vector.any():
                raise UserError(
                    "not a direction of this model's residual stream", where=where,
                    found=f"shape {vector.shape}, {int(np.isfinite(vector).sum())} finite entries, "
                    f"{np.count_nonzero(vector)} not zero",
                    expected=f"shape ({width},), all finite, one or more not zero",
                )  # fmt: skip
            found[name] = vector.astype(np.float64)
    return found


def with_external(
    unit: Floats,
    names: Sequence[str],
    clusters: Clusters,
    rules: Geometry,
    directions: dict[str, Floats],
) -> dict[str, Any]:
    """The battery on organisms [n, width] and `directions` together, the latter in no cluster."""
    if not directions:
        return {"status": "none given"}
    rows = np.concatenate([unit, np.stack(list(directions.values()))])
    together = battery(unit_gram(rows), [*names, *directions], clusters, rules)
    return {"names": ", ".join(directions)} | together.metrics()
