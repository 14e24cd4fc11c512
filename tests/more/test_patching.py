"""Patching: a planted component is found, and orthogonal vectors that act through it are alike."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_more import shown
from torch.nn import Linear

from em_geometry.activations.blocks import hidden, replaced
from em_geometry.errors import UserError
from em_geometry.io.results import read_results
from em_geometry.more.patching.effects import Effects, batch_effects, components, part_of, run
from em_geometry.more.patching.profiles import Plan, common, correlation, results
from em_geometry.project import paths
from em_geometry.steering.conditions import Intervention, Selected
from em_geometry.steering.margins import Row, packed, pair_log_probabilities
from stages.more import patching as stage
from tests.activations.families import our_hooks, random_model

BLOCKS, LAYER, WIDTH = 5, 1, 16


def tokens(seed: int, length: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.random.default_rng(seed).integers(1, 256, length))


ROWS = [
    Row(tokens(1, 9), tokens(2, 4), tokens(3, 7)),
    Row(tokens(4, 6), tokens(5, 5), tokens(6, 3)),
    Row(tokens(7, 9), tokens(8, 2), tokens(9, 1)),
]


def unit(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).standard_normal(WIDTH)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@pytest.fixture(scope="module")
def llama() -> Any:
    return random_model("llama", 258, BLOCKS)


def writers(model: Any, block: int) -> dict[str, Linear]:
    """The matrices with which a block's two parts write."""
    layer = model.model.layers[block]
    return {"attention": layer.self_attn.o_proj, "mlp": layer.mlp.down_proj}


def by_name(found: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    names = [*components(LAYER, BLOCKS)]
    parts = np.split(found[1:], 2)
    return found[0], *(dict(zip(names, each, strict=True)) for each in parts)


def measured(model: Any, vector: np.ndarray, coefficient: float = 3.0) -> np.ndarray:
    batch = packed(ROWS, "cpu", torch.float32)
    return batch_effects(model, batch, Intervention(vector, LAYER, coefficient))


def test_the_total_is_what_steering_does_to_margins(llama: Any) -> None:
    how = Intervention(unit(1), LAYER, 3.0)
    known = pair_log_probabilities(llama, ROWS, [None, how])
    margins = known[..., 0] - known[..., 1]
    total, into, out = by_name(measured(llama, how.vector))
    np.testing.assert_allclose(total, margins[1] - margins[0], atol=1e-4)
    assert not our_hooks(llama)
    assert not any("forward" in vars(block) for block in llama.model.layers)
    # Both ways, patching everything at once splits the total into parts and the direct path.
    assert np.abs(total - out["all"]).min() > 1e-4
    assert {c for c in into if not c.startswith("all")} == {
        f"{kind}_{block}" for kind in ("attention", "mlp") for block in (2, 3, 4)
    }


def test_the_output_of_a_block_carries_everything(llama: Any) -> None:
    batch = packed(ROWS, "cpu", torch.float32)
    rest = run(llama, batch)
    output = rest.blocks[LAYER]
    moved = replaced(output, hidden(output) + 3 * torch.from_numpy(unit(2)))
    steered = run(llama, batch, LAYER + 1, moved)
    for block in range(LAYER + 1, BLOCKS):
        again = run(llama, batch, block + 1, steered.blocks[block])
        np.testing.assert_allclose(again.margin, steered.margin, atol=1e-5)


@pytest.mark.parametrize(("kind", "block"), [("mlp", 3), ("attention", 2)])
def test_a_planted_component_is_found(llama: Any, kind: str, block: int) -> None:
    """Of the parts above the steered block, one alone writes anything."""
    model = deepcopy(llama)
    with torch.no_grad():
        for place in range(LAYER + 1, BLOCKS):
            for name, matrix in writers(model, place).items():
                if (place, name) != (block, kind):
                    matrix.weight.zero_()
    total, into, out = by_name(measured(model, unit(3)))
    for side in (into, out):
        found = {c: np.abs(v).max() for c, v in side.items() if not c.startswith("all")}
        assert found.pop(f"{kind}_{block}") > 1e-2
        assert max(found.values()) < 1e-5
        np.testing.assert_allclose(side[f"all_{kind}"], side[f"{kind}_{block}"], atol=1e-5)
        np.testing.assert_allclose(side["all"], side[f"{kind}_{block}"], atol=1e-5)
    assert np.abs(total - out["all"]).max() > 1e-3  # the direct path is left


def test_orthogonal_vectors_through_one_component_have_one_profile(llama: Any) -> None:
    model = deepcopy(llama)
    with torch.no_grad():
        for place in range(LAYER + 1, BLOCKS):
            for name, matrix in writers(model, place).items():
                if (place, name) != (2, "mlp"):
                    matrix.weight.zero_()
    selected = {s: Selected(unit(k), LAYER, 0.3, 3.0, 1.0) for k, s in enumerate("ab", start=5)}
    plan = Plan.of(selected, pairs=3, random=2, seed=0)
    (pair,) = plan.pairs
    first, second = (plan.vectors[name].vector for name in pair)
    assert pair == ("a", "b_without_a")
    assert abs(float(first @ second)) < 1e-6
    assert np.linalg.norm(second) == pytest.approx(1, abs=1e-5)
    effects = {}
    for name, how in plan.vectors.items():
        total, into, out = by_name(measured(model, how.vector))
        effects[name] = Effects(total, into, out)
    found = results(plan, effects)
    assert found["vector.a.into.largest"] == "mlp_2"
    share = found["overlap.into.common.a__b_without_a"]
    assert share.value in (pytest.approx(100, abs=0.1), pytest.approx(0, abs=0.1))  # of one sign?
    assert abs(found["overlap.into.correlation.a__b_without_a"].value) == pytest.approx(1, abs=1e-3)
    assert found["random_directions"] == 2


def test_measures_of_profiles() -> None:
    a, b = np.array([0.0, 1.0, 3.0]), np.array([0.0, 2.0, 6.0])
    assert common(a, b) == pytest.approx(100)
    assert correlation(a, b) == pytest.approx(1)
    assert common(np.array([1.0, 0, 0]), np.array([0, 1.0, 1.0])) == 0
    assert common(a, -b) == 0
    assert common(np.array([1.0, 1.0]), np.array([1.0, 3.0])) == pytest.approx(75)
    assert np.isnan(common(a, 0 * b)) and np.isnan(correlation(a, 0 * b))


def noisy(shape: np.ndarray, rng: np.random.Generator, pairs: int = 10) -> Effects:
    names = [f"mlp_{k}" for k in range(len(shape))]
    each = {n: s + rng.normal(0, 0.02, pairs) for n, s in zip(names, shape, strict=True)}
    return Effects(sum(each.values()), each, each)


def test_profiles_in_common_are_told_from_those_of_random_directions() -> None:
    rng = np.random.default_rng(0)
    selected = {s: Selected(unit(k), LAYER, 0.3, 3.0, 1.0) for k, s in enumerate("abcd")}
    plan = Plan.of(selected, pairs=2, random=8, seed=0)
    shared = rng.normal(0, 0.2, 30)
    (alike, apart) = plan.pairs
    shapes = {alike[0]: shared, alike[1]: shared + rng.normal(0, 0.05, 30)}
    effects = {name: noisy(shapes.get(name, rng.normal(0, 0.2, 30)), rng) for name in plan.vectors}
    found = results(plan, effects)
    key = "overlap.into.correlation"
    assert found[f"{key}.{'__'.join(alike)}.says"] == "more alike than by chance"
    assert found[f"{key}.{'__'.join(apart)}.says"] == "cannot tell"
    null = found[f"{key}.null"]
    assert null.n == 4 * 8 + 28 and null.low < 0.2 < found[f"{key}.{'__'.join(alike)}"].value


def test_bad_input() -> None:
    with pytest.raises(UserError, match="no block stands above"):
        components(BLOCKS - 1, BLOCKS)
    with pytest.raises(UserError, match="which part of a block is its mlp"):
        part_of(torch.nn.ModuleDict({"self_attn": Linear(2, 2)}), "mlp")
    apart = {s: Selected(unit(k), k, 0.3, 3.0, 1.0) for k, s in enumerate("ab")}
    with pytest.raises(UserError, match="no two vectors act at the same block"):
        Plan.of(apart, 2, 2, 0)


@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_other_families(family: str) -> None:
    more = {"attn_implementation": "eager", "sliding_window": 64} if family == "gemma2" else {}
    model = random_model(family, 258, BLOCKS, **more)
    how = Intervention(unit(1), LAYER, 3.0)
    known = pair_log_probabilities(model, ROWS, [None, how])
    margins = known[..., 0] - known[..., 1]
    found = measured(model, how.vector)
    np.testing.assert_allclose(found[0], margins[1] - margins[0], atol=1e-4)


def test_the_stage_runs(
    workplace: Path, tiny_checkpoint: Path, smol: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from em_geometry.settings import Params
    from em_geometry.steering.conditions import write_selected
    from stages import base_model
    from tests.conftest import ROOT, on_tiny

    on_tiny(smol, tiny_checkpoint, ("finance", "profanity"), max_examples=4)
    smol["margins"]["pairs"] = str(ROOT / smol["margins"]["pairs"])
    smol["geometry"]["focus"] = []
    params = Params.model_validate(smol)
    base_model.main(params)
    rng = np.random.default_rng(0)
    vectors = {slug: rng.standard_normal(32) for slug in ("finance", "profanity")}
    chosen = {
        slug: Selected((v / np.linalg.norm(v)).astype(np.float32), 1, 0.3, 1.0, 1.0)
        for slug, v in vectors.items()
    }
    write_selected(paths.SELECTED, chosen, {})
    for name, number in (("PAIRS", 3), ("RANDOM", 2)):
        monkeypatch.setattr(stage, name, number)
    stage.main(params)
    found = read_results(paths.table("patching"))
    assert found.number("pairs") == 3
    assert "overlap.into.common.finance__profanity_without_finance" in found
    assert (paths.MORE / "patching/effects.parquet").is_file()
    tables = shown(params)
    assert [row[0] for row in tables["patching"]] == [
        f"{side}: finance and profanity without finance" for side in ("into", "out")
    ]
    assert len(tables["patched"]) == 4  # two vectors, two random directions
    assert tables["patched"][0][-1] in components(1, 4)
    stage.main(params)
    assert read_results(paths.table("patching")) == found
