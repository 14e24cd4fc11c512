"""Per-row steering: what is changed, where, and what is left alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from tiny_steering import BLOCKS, WIDTH, ablate, add, tokens, unit

from em_geometry.errors import UserError
from em_geometry.models.chat import padded
from em_geometry.steering.conditions import Intervention, check_vector
from em_geometry.steering.formats import read_vectors
from em_geometry.steering.hooks import steered, steering_rows
from tests.activations.families import our_hooks

PROMPTS = [tokens(i, n) for i, n in enumerate((6, 11, 4, 9))]


def states_and_logits(
    model: Any,
    prompts: Sequence[tuple[int, ...]],
    rows: Sequence[Intervention | None] | None,
    mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Block outputs [blocks, batch, tokens, width] and logits under left padding."""
    ids, attention = padded(prompts, "left", "cpu")
    states: list[torch.Tensor] = []

    def run() -> torch.Tensor:
        handles = [
            block.register_forward_hook(lambda module, args, output: states.append(output))
            for block in model.model.layers
        ]  # registered after steering's own, so they see what it leaves
        try:
            positions = (attention.cumsum(-1) - 1).clamp(min=0)
            logits: torch.Tensor = model(
                input_ids=ids, attention_mask=attention, position_ids=positions
            ).logits
            return logits
        finally:
            for handle in handles:
                handle.remove()

    with torch.no_grad():
        if rows is None:
            logits = run()
        else:
            with steering_rows(model, rows) as steering:
                steering.mask = attention.bool() if mask is None else mask
                logits = run()
    return torch.stack(states), logits


def last_logits(model: Any, prompt: tuple[int, ...], row: Intervention | None) -> torch.Tensor:
    return states_and_logits(model, [prompt], [row])[1][0, -1]


def test_addition_adds_the_coefficient_times_the_vector(llama: Any) -> None:
    plain, _ = states_and_logits(llama, PROMPTS[:1], None)
    changed, _ = states_and_logits(llama, PROMPTS[:1], [add(1, 2, -3.0)])
    torch.testing.assert_close(changed[:2], plain[:2], rtol=0, atol=0)
    expected = plain[2] - 3.0 * torch.from_numpy(unit(1))
    torch.testing.assert_close(changed[2], expected, rtol=1e-6, atol=1e-6)


def test_scale_zero_is_the_unhooked_model_bit_for_bit(llama: Any) -> None:
    _, plain = states_and_logits(llama, PROMPTS, None)
    zeros = [add(1, 1, 0.0), None, add(2, 3, -0.0), add(1, 0, 0.0)]
    _, logits = states_and_logits(llama, PROMPTS, zeros)
    assert torch.equal(logits, plain)


def test_rows_beside_steered_ones_keep_their_bits(llama: Any) -> None:
    _, plain = states_and_logits(llama, PROMPTS, None)
    rows = [add(1, 1, 4.0), None, ablate(2, 1), add(1, 1, 0.0)]
    _, logits = states_and_logits(llama, PROMPTS, rows)
    assert torch.equal(logits[[1, 3]], plain[[1, 3]])
    assert not torch.allclose(logits[0, -1], plain[0, -1], atol=1e-2)
    assert not torch.allclose(logits[2, -1], plain[2, -1], atol=1e-2)


def test_mixed_batch_of_32_equals_rows_alone(llama: Any) -> None:
    kinds: list[Intervention | None] = [
        None,
        add(1, 0, 2.0),
        add(2, 1, -3.0),
        ablate(3, 1),
        add(4, 3, 0.0),
        ablate(1, 3),
        add(5, 2, 0.5),
        add(2, 2, 8.0),
    ]
    rows = [kinds[i % 8] for i in range(32)]
    prompts = [tokens(100 + i, 3 + i % 7) for i in range(32)]
    _, logits = states_and_logits(llama, prompts, rows)
    for i in range(32):
        alone = last_logits(llama, prompts[i], rows[i])
        torch.testing.assert_close(logits[i, -1], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("layer", range(BLOCKS))
def test_ablation_leaves_no_projection(llama: Any, layer: int) -> None:
    direction = torch.from_numpy(unit(7))
    plain, _ = states_and_logits(llama, PROMPTS[:1], None)
    states, _ = states_and_logits(llama, PROMPTS[:1], [ablate(7, layer)])
    assert (plain[layer] @ direction).abs().max() > 0.1
    assert (states[layer] @ direction).abs().max() < 1e-5
    along = (plain[layer] @ direction)[..., None] * direction
    torch.testing.assert_close(states[layer], plain[layer] - along, rtol=1e-5, atol=1e-5)


def test_pads_are_not_touched(llama: Any) -> None:
    rows = [add(1, 1, 5.0), ablate(2, 2), add(3, 1, 5.0), None]
    plain, _ = states_and_logits(llama, PROMPTS, None)
    states, _ = states_and_logits(llama, PROMPTS, rows)
    _, attention = padded(PROMPTS, "left", "cpu")
    pads = ~attention.bool()
    assert pads.any()
    assert torch.equal(states[1][pads], plain[1][pads])
    torch.testing.assert_close(states[:, pads], plain[:, pads], rtol=0, atol=0)


def test_the_mask_limits_positions(llama: Any) -> None:
    plain, _ = states_and_logits(llama, PROMPTS[:1], None)
    mask = torch.tensor([[False, True, False, False, True, False]])
    states, _ = states_and_logits(llama, PROMPTS[:1], [add(1, 3, 5.0)], mask)
    moved = (states[3] - plain[3]).norm(dim=-1)
    torch.testing.assert_close(moved, 5.0 * mask.float(), rtol=1e-5, atol=1e-5)


def test_keep_goes_on_with_the_chosen_rows(llama: Any) -> None:
    rows = [add(1, 1, 5.0), None, ablate(2, 2), add(3, 1, 5.0)]
    states = torch.randn(4, 1, WIDTH, generator=torch.Generator().manual_seed(0))
    with steering_rows(llama, rows) as steering:
        steering.mask = torch.ones(4, 1, dtype=torch.bool)
        whole = {layer: steering.apply(layer, states) for layer in steering.layers}
        kept = torch.tensor([2, 3])
        steering.keep(kept)
        steering.mask = steering.mask[kept]
        for layer in (1, 2):
            assert torch.equal(steering.apply(layer, states[kept]), whole[layer][kept])


def test_hooks_leave_with_an_exception(llama: Any) -> None:
    with pytest.raises(KeyError), steering_rows(llama, [add(1, 1, 1.0), ablate(2, 3)]):
        assert len(our_hooks(llama)) == 2
        raise KeyError("anything")
    assert not our_hooks(llama)


@pytest.mark.parametrize("layer", [-1, BLOCKS, 99])
def test_a_block_that_is_not_there(llama: Any, layer: int) -> None:
    with (
        pytest.raises(UserError, match="no such block"),
        steering_rows(llama, [None, add(1, layer, 1)]),
    ):
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
        ({"vector": np.zeros(WIDTH)}, "is zero"),
        ({"vector": np.ones(3)}, "does not fit"),
    ],
)
def test_steering_that_cannot_be(llama: Any, change: dict[str, Any], message: str) -> None:
    how = {"vector": unit(1), "block": 1, "dose": 0.3} | change
    with pytest.raises(UserError, match=message), steered(llama, **how):
        pass
