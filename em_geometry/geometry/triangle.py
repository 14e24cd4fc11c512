"""Method 2: do three vectors lie in a plane? (METHOD.md: triangle)"""

from __future__ import annotations

import numpy as np

from em_geometry.geometry.gram import Floats, angles_deg


def planar_predictions(gram: Floats) -> Floats:
    """Angles [..., 2] that bc would have in a plane: |ab - ac| and ab + ac, in degrees."""
    ab, ac = angles_deg(gram[..., 0, 1]), angles_deg(gram[..., 0, 2])
    return np.stack([np.abs(ab - ac), ab + ac], axis=-1)


def planar_error(gram: Floats) -> Floats:
    """Distance [...] in degrees of angle bc from the nearer planar prediction.

    It does not depend on which vector is the apex. `gram` is [..., 3, 3].
    """
    observed = angles_deg(gram[..., 1, 2])
    error: Floats = np.abs(planar_predictions(gram) - observed[..., None]).min(-1)
    return error


def volume(gram: Floats) -> Floats:
    """Volume [...] spanned by the three unit vectors: 0 in a plane, 1 when orthogonal."""
    root: Floats = np.sqrt(np.maximum(np.linalg.det(gram), 0.0))
    return root
