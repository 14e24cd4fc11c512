"""The plan of what is done to a target, its control directions, and the file of chosen vectors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_steering import tiny_params, unit

from em_geometry.errors import UserError
from em_geometry.io.files import read_tensors, write_tensors
from em_geometry.steering.conditions import (
    Selected,
    orthogonalised,
    plan,
    random_direction,
    read_selected,
    write_selected,
)

SELECTED = {
    "finance": Selected(unit(1), 1, 0.2, 4.0, 1.0),
    "profanity": Selected(unit(2), 1, 0.4, 8.0, 1.0),
}
STEERING = {"samples": 6, "control_samples": 2, "random_directions": 2}
PARAMS = tiny_params(steering=STEERING, transfer={"pairs": ["profanity>finance"]})


def planned(target: str) -> Any:
    return plan(target, SELECTED, PARAMS.steering, PARAMS.named_pairs(), PARAMS.run.seed)


@pytest.mark.parametrize(
    ("target", "sources"),
    [
        ("base", ["finance", "profanity"]),
        ("finance", ["finance", "profanity"]),  # a named pair
        ("profanity", ["profanity"]),
    ],
)
def test_plan_of_a_target(target: str, sources: list[str]) -> None:
    conditions, vectors = planned(target)
    expected = {
        "finance": ("vector", 4.0, 0.2, 6), "profanity": ("vector", 8.0, 0.4, 6),
        "random_0": ("random", 8.0, 0.4, 2), "random_1": ("random", 8.0, 0.4, 2),
    }  # fmt: skip
    found = {c.source: (c.kind, c.coefficient, c.relative_dose, c.samples) for c in conditions}
    assert found == {s: expected[s] for s in [*sources, "random_0", "random_1"]}
    assert {c.multiple for c in conditions} == {1.0}
    assert [*vectors] == [*found]
    for c in conditions:
        how = c.intervention(vectors)
        assert how is not None and (how.mode, how.layer) == ("add", 1)
        assert np.linalg.norm(how.vector) == pytest.approx(1, abs=1e-5)


def test_random_directions_are_unit_fixed_by_seed_and_name_and_prefer_none() -> None:
    first = random_direction(500, 0, "random_0")
    assert first.dtype == np.float32
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-6)
    assert (first == random_direction(500, 0, "random_0")).all()
    for other in (random_direction(500, 1, "random_0"), random_direction(500, 0, "random_1")):
        assert abs(first @ other) < 0.2  # five standard deviations of a random cosine: .22
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
    by_hand = orthogonalised(np.array([3, 4], np.float32), np.array([2, 0], np.float32))
    assert by_hand is not None
    assert by_hand.tolist() == [0, 1]
    for factor in (1.0, -2.0):
        assert orthogonalised(unit(1), np.float32(factor) * unit(1)) is None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "selected.safetensors"
    write_selected(found, dict(reversed(SELECTED.items())), {"rule": "by hand"})
    return found


def test_chosen_vectors_keep_order_and_numbers(path: Path) -> None:
    found = read_selected(path)
    assert list(found) == ["profanity", "finance"]
    for slug, wanted in SELECTED.items():
        assert (found[slug].vector == wanted.vector).all()
        for name in ("layer", "dose", "coefficient", "norm"):
            assert getattr(found[slug], name) == getattr(wanted, name)
    assert read_tensors(path)[1]["rule"] == "by hand"


@pytest.mark.parametrize("fault", ["no file", "of something else", "no tensor", "no number"])
def test_files_of_chosen_vectors_that_cannot_be(path: Path, fault: str) -> None:
    tensors, metadata = read_tensors(path)
    if fault == "no tensor":
        del tensors["profanity"]
    elif fault == "no number":
        metadata["doses"] = json.dumps({"finance": 0.4})
    else:
        metadata = {"model": "base"}
    write_tensors(path, tensors, metadata)
    if fault == "no file":
        path.unlink()
    says = "file not found" if fault == "no file" else "not a file of selected"
    with pytest.raises(UserError, match=says) as caught:
        read_selected(path)
    assert fault in ("no file", "of something else") or "profanity" in str(caught.value)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.01])
def test_a_vector_that_is_not_of_unit_length(path: Path, factor: float) -> None:
    changed = Selected((factor * unit(1)).astype(np.float32), 3, 0.2, 5.0, 1.5)
    write_selected(path, {**SELECTED, "medical": changed}, {})
    with pytest.raises(UserError, match="unit length") as caught:
        read_selected(path)
    assert "medical" in str(caught.value)
