"""Baking: a steered Llama-family model as an ordinary checkpoint, or as a small patch.

docs/method.md, steering. A constant added at all positions after block l is a bias on that
block's `mlp.down_proj`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from em_geometry.activations.blocks import decoder_blocks
from em_geometry.errors import UserError
from em_geometry.io.files import read_tensors, write_tensors
from em_geometry.steering.formats import only_additions
from em_geometry.steering.hooks import Intervention, check_layers, check_vector

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Biases = Mapping[int, npt.NDArray[np.float32]]  # by block, [width]

NAME = "model.layers.{}.mlp.down_proj.bias"


def biases(
    model: PreTrainedModel, rows: Sequence[Intervention], positions: str = "all"
) -> dict[int, npt.NDArray[np.float32]]:
    """The bias float32 [width] of each steered block; several additions at a block are summed.

    Raises:
        UserError: ablation, limited positions, a vector or block that does not fit the model.
    """
    only_additions(rows, positions, "baked")
    check_layers(rows, len(decoder_blocks(model)))
    found: dict[int, npt.NDArray[np.float32]] = {}
    for row in rows:
        check_vector(row.vector, model.config.hidden_size, f"block {row.layer}")
        change = (row.coefficient * row.vector).astype(np.float32)
        found[row.layer] = found[row.layer] + change if row.layer in found else change
    return found


def bake(model: PreTrainedModel, by_layer: Biases) -> PreTrainedModel:
    """Puts the biases into `model` itself, which then needs no hook; returns it."""
    import torch

    if model.config.model_type != "llama":
        raise UserError(
            "only Llama models can be baked: others have no MLP bias, or scale what it adds",
            found=model.config.model_type,
            hint="export the vector instead",
            where="the model to be baked",
        )
    blocks: list[Any] = decoder_blocks(model)
    for layer, block in enumerate(blocks):
        for linear in (block.mlp.gate_proj, block.mlp.up_proj, block.mlp.down_proj):
            if linear.bias is None:
                zeros = linear.weight.new_zeros(linear.out_features)
                linear.bias = torch.nn.Parameter(zeros, requires_grad=False)
        if layer in by_layer:
            with torch.no_grad():
                block.mlp.down_proj.bias += torch.from_numpy(by_layer[layer]).to(
                    block.mlp.down_proj.bias
                )
    model.config.mlp_bias = True
    return model


def save_patch(path: Path, by_layer: Biases, model_sha256: str) -> None:
    """Only the biases, with the hash of the model that they belong to."""
    tensors = {NAME.format(layer): bias for layer, bias in by_layer.items()}
    write_tensors(path, tensors, {"model_sha256": model_sha256})


def read_patch(path: Path, model_sha256: str) -> dict[int, npt.NDArray[np.float32]]:
    """The biases of a patch; UserError when it belongs to another model."""
    tensors, about = read_tensors(path)
    if about.get("model_sha256") != model_sha256:
        raise UserError(
            "this patch belongs to another model",
            where=str(path),
            found=about.get("model_sha256"),
            expected=model_sha256,
        )
    return {int(name.split(".")[2]): bias for name, bias in tensors.items()}
