"""The plan of what is done to a target, and its table of damage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_steering import loaded, tiny_params, unit

from em_geometry.activations.prompts import ActivationPrompt
from em_geometry.project.inputs import models
from em_geometry.steering.conditions import plan
from em_geometry.steering.forced import damage, spread_prompts
from em_geometry.steering.selected import Selected

SELECTED = {
    "finance": Selected(unit(1), 1, 0.2, 4.0, 1.0),
    "profanity": Selected(unit(2), 1, 0.4, 8.0, 1.0),
}
STEERING = {
    "doses": [-0.5, 1.0],
    "samples": 1,
    "focus_samples": 6,
    "control_samples": 2,
    "random_directions": 1,
    "damage_prompts": 2,
}
PARAMS = tiny_params(steering=STEERING, transfer={"pairs": ["profanity>finance"]})


def planned(target: str, selected: dict[str, Selected] = SELECTED) -> Any:
    return plan(target, selected, PARAMS.steering, PARAMS.transfer.pairs, PARAMS.run.seed)


def rows(target: str) -> dict[tuple[str, str, float], tuple[float, float, int]]:
    """(source, kind, multiple) -> (coefficient, relative dose, samples)."""
    conditions, _ = planned(target)
    return {
        (c.source, c.kind, c.multiple): (c.coefficient, c.relative_dose, c.samples)
        for c in conditions
    }


def test_plan_of_an_organism() -> None:
    assert rows("finance") == {
        ("none", "unsteered", 0.0): (0.0, 0.0, 6),
        ("finance", "vector", -0.5): (-2.0, -0.1, 1),
        ("finance", "vector", 1.0): (4.0, 0.2, 6),  # its own vector
        ("finance", "ablation", 1.0): (0.0, 0.0, 2),
        ("profanity", "vector", -0.5): (-4.0, -0.2, 1),
        ("profanity", "vector", 1.0): (8.0, 0.4, 6),  # a named pair
        ("profanity", "ablation", 1.0): (0.0, 0.0, 2),
        ("profanity", "orthogonalised", 1.0): (8.0, 0.4, 2),
        ("random_0", "random", 1.0): (8.0, 0.4, 2),
    }


def test_plan_of_the_base_has_no_own_vector() -> None:
    found = rows("base")
    assert {kind for _, kind, _ in found} == {"unsteered", "vector", "random"}
    assert found["profanity", "vector", 1.0][2] == 1


def test_vectors_of_a_plan() -> None:
    conditions, vectors = planned("finance")
    assert {c.vector_name for c in conditions} - {"unsteered:none"} == set(vectors)
    for vector in vectors.values():
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert abs(vectors["orthogonalised:profanity"] @ unit(1)) < 1e-6
    assert (vectors["ablation:finance"] == unit(1)).all()


def test_no_orthogonalised_control_of_a_parallel_vector() -> None:
    twin = Selected(unit(1), 1, 0.2, 4.0, 1.0)
    conditions, _ = planned("finance", {**SELECTED, "profanity": twin})
    assert not [c for c in conditions if c.kind == "orthogonalised"]


PROMPTS = [
    ActivationPrompt(f"{kind}{i}", kind, "t", str(i), f"{kind} {i}?")
    for kind in ("neutral", "harmful")
    for i in range(4)
]


def test_damage_of_every_steered_condition() -> None:
    conditions, vectors = planned("finance")
    benign = spread_prompts(PROMPTS, 2)
    assert [p.id for p in benign] == ["neutral0", "neutral2"]

    def table() -> Any:
        known, target = models(PARAMS), loaded("finance")
        return damage(known, target, conditions, vectors, benign, PARAMS.sampling)

    found = table()
    keys = found.select("source", "kind", "multiple").rows()
    assert keys == [(c.source, c.kind, c.multiple) for c in conditions if c.kind != "unsteered"]
    assert (found["kl"] > 0).all()
    assert found["tokens"].n_unique() == 1
    assert table().equals(found)


def test_no_damage_prompts_give_an_empty_table() -> None:
    none = spread_prompts(PROMPTS, 0)
    found = damage(models(PARAMS), loaded(), *planned("base"), none, PARAMS.sampling)
    assert len(found) == 0
    assert found.columns[-2:] == ["kl", "tokens"]
