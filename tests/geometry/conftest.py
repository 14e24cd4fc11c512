"""Random unit vectors and rules shared by the geometry's tests."""

from __future__ import annotations

import numpy as np
import pytest

from em_geometry.settings.sections import Geometry
from em_geometry.stats.arrays import Floats


def unit_vectors(seed: int, n: int, width: int, common: float = 0.0) -> Floats:
    """n random unit vectors [n, width] with a common part."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, width)) + common * rng.standard_normal(width)
    unit: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


@pytest.fixture
def rules() -> Geometry:
    return Geometry(focus=[])
