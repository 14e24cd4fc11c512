"""Test 4: cosines after ablating the centred first component (METHOD.md: pc1_ablation).

Centring removes what all vectors share, so the ablated direction is always a contrast.
"""

from __future__ import annotations

from stages.geometry.gram import Floats, cosines, remove_direction
from stages.geometry.pca import Components, along_first


def ablated_cosines(gram: Floats, found: Components) -> Floats:
    """Cosines [..., n, n] of v - (v.p) p, renormalised; p the first of the centred components.

    NaN for a vector that lies along p, and where the vectors are all equal.
    """
    return cosines(remove_direction(gram, along_first(gram, found)))
