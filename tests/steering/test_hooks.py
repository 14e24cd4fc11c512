"""Per-row steering: what is changed, where, and what is left alone."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from tiny_steering import BLOCKS, WIDTH, ablate, add, tokens, unit

from em_geometry.errors import UserError
from em_geometry.io.files import check_vector
from em_geometry.models.chat import padded
from em_geometry.steering.conditions import Intervention
from em_geometry.steering.formats import read_vectors
from em_geometry.steering.hooks import steered, steering_rows
from tests.activations.families import our_hooks

PROMPTS = [tokens(i, n) for i, n in enumerate((6, 11, 4, 9))]


def states_and_logits(
    model: Any, prompts: Sequence[tuple[int, ...]], rows: Sequence[Intervention | None] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Block outputs [blocks, batch, tokens, width] and logits under left padding."""
    ids, attention = padded(prompts, "left", "cpu")
    positions = (attention.cumsum(-1) - 1).clamp(min=0)
    states: list[torch.Tensor] = []
    with torch.no_grad(), steering_rows(model, rows) if rows else nullcontext() as steering:
        if steering is not None:
            steering.mask = attention.bool()
        handles = [
            block.register_forward_hook(lambda module, args, output: states.append(output))
            for block in model.model.layers
        ]  # registered after steering's own, so they see what it leaves
        output = model(input_ids=ids, attention_mask=attention, position_ids=positions)
        for handle in handles:
            handle.remove()
    return torch.stack(states), output.logits


def test_addition_adds_the_coefficient_times_the_vector(llama: Any) -> None:
    plain, _ = states_and_logits(llama, PROMPTS[:1], None)
    changed, _ = states_and_logits(llama, PROMPTS[:1], [add(1, 2, -3.0)])
    torch.testing.assert_close(changed[:2], plain[:2], rtol=0, atol=0)
    expected = plain[2] - 3.0 * torch.from_numpy(unit(1))
    torch.testing.assert_close(changed[2], expected, rtol=1e-6, atol=1e-6)


def test_rows_beside_steered_ones_keep_their_bits(llama: Any) -> None:
    _, plain = states_and_logits(llama, PROMPTS, None)
    rows = [add(1, 1, 4.0), None, ablate(2, 1), add(1, 1, -0.0)]
    _, logits = states_and_logits(llama, PROMPTS, rows)
    assert torch.equal(logits[[1, 3]], plain[[1, 3]])
    assert not torch.allclose(logits[0, -1], plain[0, -1], atol=1e-2)
    assert not torch.allclose(logits[2, -1], plain[2, -1], atol=1e-2)


@pytest.mark.parametrize("layer", range(BLOCKS))
def test_ablation_leaves_no_projection(llama: Any, layer: int) -> None:
    direction = torch.from_numpy(unit(7))
    plain, _ = states_and_logits(llama, PROMPTS[:1], None)
    states, _ = states_and_logits(llama, PROMPTS[:1], [ablate(7, layer)])
    assert (plain[layer] @ direction).abs().max() > 0.1
    assert (states[layer] @ direction).abs().max() < 1e-5
    along = (plain[layer] @ direction)[..., None] * direction
    torch.testing.assert_close(states[layer], plain[layer] - along, rtol=1e-5, atol=1e-5)


def test_hooks_leave_with_an_exception(llama: Any) -> None:
    with pytest.raises(KeyError), steering_rows(llama, [add(1, 1, 1.0), ablate(2, 3)]):
        assert len(our_hooks(llama)) == 2
        raise KeyError("anything")
    assert not our_hooks(llama)


@pytest.mark.parametrize("layer", [-1, BLOCKS, 99])
def test_a_block_that_is_not_there(llama: Any, layer: int) -> None:
    rows = [None, add(1, layer, 1)]
    with pytest.raises(UserError, match="no such block"), steering_rows(llama, rows):
        pass
    assert not our_hooks(llama)


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.zeros(WIDTH, np.float32), "is zero"),
        (np.full(WIDTH, np.nan, np.float32), "NaN"),
        (np.r_[np.ones(WIDTH - 1), np.inf].astype(np.float32), "NaN or infinite"),
        (np.ones(WIDTH + 1, np.float32), "does not fit"),
        (np.ones((1, WIDTH), np.float32), "does not fit"),
    ],
)
def test_bad_vectors(vector: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        check_vector(vector, WIDTH, "vector:finance")
    assert caught.value.where == "vector:finance"
    check_vector(unit(0), WIDTH, "fine")


def test_a_notebook_steers_any_model_in_five_lines(llama: Any, tmp_path: Path) -> None:
    """Two vectors from safetensors, and `generate` with and without them."""
    save_file({"finance": 3 * unit(1), "sports": unit(2)}, tmp_path / "vectors.safetensors")
    ids = torch.tensor([PROMPTS[1]])

    def answer() -> list[int]:
        new: list[int] = llama.generate(ids, max_new_tokens=8, do_sample=False)[0].tolist()
        return new

    plain = answer()
    vectors = read_vectors(tmp_path / "vectors.safetensors")
    with steered(llama, vectors["finance"], block=1, dose=2.0):
        with steered(llama, vectors["sports"], block=2, coefficient=9.0):
            both = answer()
        one = answer()
    assert len({tuple(a) for a in (plain, one, both)}) == 3
    assert answer() == plain
    assert not our_hooks(llama)


def test_a_dose_is_a_share_of_the_residual_norm(llama: Any) -> None:
    """What is added stays that of the first pass, however long the vector is."""
    prompt = PROMPTS[1]
    plain, _ = states_and_logits(llama, [prompt], None)
    norm = plain[1, 0, 1:].norm(dim=-1).mean()
    with steered(llama, torch.from_numpy(5 * unit(1)), block=1, dose=0.3):
        for length in (len(prompt), 3):
            changed, _ = states_and_logits(llama, [prompt[:length]], None)
            added = (changed - plain[:, :, :length])[1, 0]
            expected = 0.3 * norm * torch.from_numpy(unit(1))
            torch.testing.assert_close(added, expected.expand_as(added), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dose": None}, "how far"),
        ({"coefficient": 1.0}, "how far"),
        ({"block": BLOCKS}, "no such block"),
        ({"vector": np.ones(3)}, "does not fit"),
    ],
)
def test_steering_that_cannot_be(llama: Any, change: dict[str, Any], message: str) -> None:
    how = {"vector": unit(1), "block": 1, "dose": 0.3} | change
    with pytest.raises(UserError, match=message), steered(llama, **how):
        pass
