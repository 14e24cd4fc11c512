"""Published layouts of sparse dictionaries: every one folds into the same latents."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from em_geometry.errors import UserError
from em_geometry.more.features.dictionaries import (
    find_dictionary,
    read_dictionary,
    write_dictionary,
)
from em_geometry.more.features.sparse import Dictionary

WIDTH, LATENTS = 6, 10
RNG = np.random.default_rng(0)
E, D = (RNG.standard_normal((LATENTS, WIDTH)).astype(np.float32) for _ in "ed")
B, C = (RNG.standard_normal(n).astype(np.float32) for n in (LATENTS, WIDTH))
STATES = RNG.standard_normal((20, WIDTH)).astype(np.float32)


def saved(folder: Path, tensors: dict[str, np.ndarray], name: str = "", **settings: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / "sae.safetensors")
    if name:
        (folder / name).write_text(json.dumps(settings), encoding="utf-8")
    return folder / "sae.safetensors"


def latents(found: Dictionary) -> np.ndarray:
    return found.encode(torch.from_numpy(STATES)).numpy()


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def best(x: np.ndarray, k: int) -> np.ndarray:
    cut = np.sort(x, axis=1)[:, [-k]]
    return np.where(x >= cut, relu(x), 0)


PLAIN = STATES @ E.T + B
LLAMA = {"encoder.weight": E, "encoder.bias": B, "decoder.weight": D.T, "decoder.bias": C}
HYPER = {"norm_activation": "dataset-wise",
         "dataset_average_activation_norm": {"in": 3.0, "out": 3.0},
         "act_fn": "jumprelu", "top_k": 50, "jump_relu_threshold": 0.4,
         "apply_decoder_bias_to_pre_encoder": False,
         "hook_point_in": "blocks.15.hook_resid_post"}  # fmt: skip
SPARSIFY = {"encoder.weight": E, "encoder.bias": B, "W_dec": D, "b_dec": C}
LENS = {"W_enc": E.T, "b_enc": B, "W_dec": D, "b_dec": C}


def test_llama_scope(tmp_path: Path) -> None:
    """Thresholds, the norm of its data set, and settings in the folder above."""
    path = saved(tmp_path / "checkpoints", LLAMA)
    (tmp_path / "hyperparams.json").write_text(json.dumps(HYPER), encoding="utf-8")
    found = read_dictionary(path, WIDTH)
    scale = WIDTH**0.5 / 3
    before = scale * STATES @ E.T + B
    on = np.where(before > 0.4, before, 0)
    assert found.block == 15 and found.k is None
    assert latents(found) == pytest.approx(on, abs=1e-5)
    back = found.decode(torch.from_numpy(on).float()).numpy()
    assert back == pytest.approx((on @ D + C) / scale, abs=1e-5)
    (tmp_path / "hyperparams.json").write_text(
        json.dumps(HYPER | {"sparsity_include_decoder_norm": True}), encoding="utf-8"
    )
    lengths = np.linalg.norm(D, axis=1)
    other = np.where(before * lengths > 0.4, before, 0)
    assert latents(read_dictionary(path, WIDTH)) == pytest.approx(other, abs=1e-5)


def test_sparsify_takes_the_bias_off_first(tmp_path: Path) -> None:
    path = saved(tmp_path / "layers.7", SPARSIFY, "cfg.json", activation="topk", k=3)
    found = read_dictionary(path, WIDTH)
    assert (found.block, found.k) == (7, 3)
    assert latents(found) == pytest.approx(best((STATES - C) @ E.T + B, 3), abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"architecture": "standard", "activation_fn_str": "relu"}, relu(PLAIN)),
        ({"architecture": "topk", "activation_fn_kwargs": {"k": 2}}, best(PLAIN, 2)),
        ({"architecture": "standard", "apply_b_dec_to_input": True}, relu((STATES - C) @ E.T + B)),
    ],
)
def test_sae_lens(tmp_path: Path, settings: dict[str, Any], expected: np.ndarray) -> None:
    about = {"hook_name": "blocks.4.hook_resid_pre", **settings}
    found = read_dictionary(saved(tmp_path, LENS, "cfg.json", **about), WIDTH)
    assert found.block == 3  # what goes into a block comes out of the one before
    assert latents(found) == pytest.approx(expected, abs=1e-5)


def test_thresholds_of_a_file_count_for_its_architecture(tmp_path: Path) -> None:
    limit = RNG.uniform(0, 1, LATENTS).astype(np.float32)
    about = {"architecture": "jumprelu", "activation_fn_str": "relu"}
    path = saved(tmp_path, LENS | {"threshold": limit}, "cfg.json", **about)
    assert latents(read_dictionary(path, WIDTH)) == pytest.approx(np.where(limit < PLAIN, PLAIN, 0))


def test_goodfire_has_no_settings(tmp_path: Path) -> None:
    names = ("encoder_linear.weight", "encoder_linear.bias", "decoder_linear.weight")
    path = saved(tmp_path, dict(zip(names, (E, B, D.T), strict=True)))
    found = read_dictionary(path, WIDTH, block=19)
    assert found.block is None
    assert latents(found) == pytest.approx(relu(PLAIN), abs=1e-5)


def test_one_is_read_as_it_was_written(tmp_path: Path) -> None:
    parts = (torch.from_numpy(p) for p in (E, B, D, C, np.zeros(LATENTS, np.float32)))
    given = Dictionary(*parts, k=4, block=2)
    write_dictionary(tmp_path / "own.safetensors", given, {"explained": "0.5"})
    found = read_dictionary(tmp_path / "own.safetensors", WIDTH)
    assert (found.k, found.block) == (4, 2)
    assert latents(found) == pytest.approx(latents(given), abs=1e-5)


@pytest.mark.parametrize(
    ("tensors", "settings", "says"),
    [
        ({"W_dec": D}, {}, "encoder_linear.weight"),
        (LENS | {"W_dec": D[:, :4]}, {}, "decoder [10, 4]"),
        (LENS | {"b_enc": B[:3]}, {}, "bias of the encoder [3]"),
        (LENS | {"b_dec": np.full_like(C, np.nan)}, {}, "not finite"),
        (LENS, {"architecture": "gated"}, "gated"),
        (LENS | {"b_gate": B}, {}, "gated"),
        (LENS, {"architecture": "topk"}, "k"),
        (LENS, {"architecture": "jumprelu"}, "threshold"),
        (LENS, {"hook_name": "blocks.4.hook_mlp_out"}, "hook_mlp_out"),
        (LENS, {"hook_name": "blocks.4.hook_resid_post"}, "block 4"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, tensors: dict[str, np.ndarray], settings: dict[str, Any], says: str
) -> None:
    path = saved(tmp_path, tensors, "cfg.json", **settings)
    with pytest.raises(UserError) as caught:
        read_dictionary(path, WIDTH, block=9)
    assert says in str(caught.value) and str(path) in str(caught.value)


def test_a_message_of_shapes_names_width_and_block(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not fit") as caught:
        read_dictionary(saved(tmp_path, LENS), 8, block=3)
    text = str(caught.value)
    assert "decoder [10, 6]" in text and "[10, 8]" in text and "width 8, block 3" in text


def test_a_folder_has_one_or_none(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("put it here", encoding="utf-8")
    assert find_dictionary(tmp_path) is None
    (tmp_path / "sae.pth").write_bytes(b"")
    with pytest.raises(UserError, match="pickled"):
        find_dictionary(tmp_path)
    path = saved(tmp_path / "inner", LENS)
    (tmp_path / "inner/._sae.safetensors").write_bytes(b"a file manager's")
    assert find_dictionary(tmp_path) == path == find_dictionary(path)
    saved(tmp_path, LENS)
    with pytest.raises(UserError, match="which dictionary"):
        find_dictionary(tmp_path)
    with pytest.raises(UserError, match="which dictionary"):
        find_dictionary(tmp_path / "none")
