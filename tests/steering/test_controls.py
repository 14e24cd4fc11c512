"""Control directions."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_steering import unit

from em_geometry.steering.conditions import orthogonalised, random_direction


def test_random_directions_are_unit_and_fixed_by_seed_and_name() -> None:
    first = random_direction(500, 0, "random_0")
    assert first.dtype == np.float32
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-6)
    assert (first == random_direction(500, 0, "random_0")).all()
    for other in (random_direction(500, 1, "random_0"), random_direction(500, 0, "random_1")):
        assert abs(first @ other) < 0.2  # five standard deviations of a random cosine: .22


def test_random_directions_have_no_preferred_one() -> None:
    many = np.array([random_direction(8, 0, f"random_{i}") for i in range(2000)])
    assert np.abs(many.mean(0)).max() < 0.04  # sd 1/sqrt(8 x 2000) = .008
    np.testing.assert_allclose(many.T @ many / 2000, np.eye(8) / 8, atol=0.02)


def test_orthogonalised_is_orthogonal_unit_and_in_the_plane() -> None:
    v, a = unit(1), 3 * unit(2)
    rest = orthogonalised(v, a)
    assert rest is not None
    assert rest.dtype == np.float32
    assert abs(rest @ a) < 1e-6
    assert np.linalg.norm(rest) == pytest.approx(1, abs=1e-6)
    assert np.linalg.matrix_rank(np.stack([v, a, rest]), tol=1e-5) == 2
    assert rest @ v > 0


def test_orthogonalised_by_hand() -> None:
    rest = orthogonalised(np.array([3.0, 4.0]), np.array([2.0, 0.0]))
    assert rest is not None
    assert rest.tolist() == [0, 1]


@pytest.mark.parametrize("factor", [1.0, -2.0])
def test_nothing_is_left_of_parallel_vectors(factor: float) -> None:
    assert orthogonalised(unit(1), factor * unit(1)) is None
