"""Steering as files: vectors in the formats of several tools, and models with a vector baked in.

Vectors: safetensors, lm-eval `.pt`, repeng GGUF, bare tensors. All add `coefficient * vector` to
the output of a block, at all positions. GGUF (also read by llama.cpp) has no coefficients, so they
are multiplied in, and no block 0.

Baking (docs/method.md, steering): a constant added at all positions after block l is a bias on that
block's `mlp.down_proj`, so a steered Llama model is an ordinary checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import PreTrainedModel

from em_geometry.activations.blocks import check_blocks, decoder_blocks
from em_geometry.errors import UserError, explained
from em_geometry.io.files import atomic_path, read_tensors, there, write_tensors
from em_geometry.steering.conditions import Intervention, Vector, check_vector


def only_additions(rows: Sequence[Intervention], positions: str, what: str) -> None:
    """Raises UserError for what a constant added at all positions cannot express."""
    if any(row.mode != "add" for row in rows):
        reason = "ablation depends on the hidden state, a constant does not"
    elif positions != "all":
        reason = f"a constant acts at all positions, not only on the {positions}"
    else:
        return
    raise UserError(
        f"this steering cannot be {what}",
        where="the interventions",
        found=reason,
        expected="additions at all positions",
    )


def write_vectors(path: Path, rows: Sequence[Intervention], positions: str = "all") -> None:
    """Exports additions in the format that the suffix names.

    Raises:
        UserError: ablation, limited positions, unknown suffix, or a block the format cannot hold.
    """
    only_additions(rows, positions, "exported")
    _check_suffix(path)
    summed: dict[int, Any] = {}
    for row in rows:
        summed[row.layer] = summed.get(row.layer, 0.0) + row.coefficient * row.vector
    limit = None
    if path.suffix == ".gguf" and 0 in summed:
        limit = "a GGUF control vector cannot act on block 0"
    elif path.suffix == ".pt" and len(summed) > 1:  # lm-eval would apply the last one everywhere
        limit = "one block a file, in lm-eval's format"
    if limit is not None:
        blocks = f"blocks {sorted(summed)}"
        raise UserError(limit, where=str(path), found=blocks, expected="others, or safetensors")
    with atomic_path(path) as temporary:
        FORMATS[path.suffix][1](temporary, summed)


def _units(vectors: Mapping[int, Any]) -> tuple[dict[int, Vector], dict[int, float]]:
    """Unit vectors and lengths by block."""
    norms = {layer: float(np.linalg.norm(v)) for layer, v in vectors.items()}
    return {layer: (v / norms[layer]).astype(np.float32) for layer, v in vectors.items()}, norms


def _write_safetensors(path: Path, vectors: Mapping[int, Any]) -> None:
    units, norms = _units(vectors)
    about = {"coefficients": json.dumps({str(layer): norm for layer, norm in norms.items()})}
    write_tensors(path, {f"layers.{layer}": unit for layer, unit in units.items()}, about)


def _write_lm_eval(path: Path, vectors: Mapping[int, Any]) -> None:
    units, norms = _units(vectors)
    entries = {
        f"layers.{layer}": {
            "action": "add",
            "steering_coefficient": norms[layer],
            "steering_vector": torch.from_numpy(unit),
            "bias": None,
        }
        for layer, unit in units.items()
    }
    torch.save(entries, path)  # read back by the weights-only loader alone


def _write_gguf(path: Path, vectors: Mapping[int, Any]) -> None:
    writer = gguf.GGUFWriter(str(path), "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", len(vectors))
    for layer, vector in sorted(vectors.items()):
        writer.add_tensor(f"direction.{layer}", vector.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_vectors(path: Path | str) -> dict[str, Vector]:
    """Named vectors float32 [width] of a file of any of these formats, as they are.

    Raises:
        UserError: no such file, another format, code in a `.pt`.
    """
    return _read(Path(path))[0]


def read_interventions(
    path: Path, layer: int | None = None, bare: int | None = None
) -> list[Intervention]:
    """What the vectors of a file do, each at the block that its name ends with.

    Args:
        layer: the one block that is wanted of several; of a bare tensor, the block it acts on.
        bare: block of a tensor whose name says none, where `layer` is not given.
    Raises:
        UserError: as `read_vectors`; no block for a bare tensor; `layer` is not in the file.
    """
    vectors, coefficients = _read(path)
    rows = []
    for name, vector in vectors.items():
        number = name.rpartition(".")[2]
        block = int(number) if number.isdigit() else bare if layer is None else layer
        if block is None or (len(vectors) > 1 and not number.isdigit()):
            what, where = "which block does this vector act on?", f"{path}: {name}"
            expected = "names like layers.14, or one tensor and its block"
            raise UserError(what, where=where, found=name, expected=expected)
        rows.append(Intervention(vector, block, coefficients.get(number, 1.0)))
    known = [row.layer for row in rows]
    rows = [row for row in rows if layer is None or row.layer == layer]
    if not rows:
        raise UserError(
            "no vector of this block", where=str(path), found=f"blocks {known}", expected=layer
        )
    return rows


def _read(path: Path) -> tuple[dict[str, Vector], dict[str, float]]:
    """Vectors by name, and coefficients by block."""
    _check_suffix(there(path))
    # Parsers of others fail in any way on damaged bytes (numpy, struct, mmap, zip, unpickling).
    with explained(
        "not a steering file, or damaged",
        where=str(path),
        expected="a tensor, tensors by block, or lm-eval's "
        "{hookpoint: {action: add, steering_vector, steering_coefficient}}",
        hint="save the tensors alone, as safetensors",
    ):
        tensors, coefficients = FORMATS[path.suffix][0](path)
        vectors = {k: np.asarray(t, dtype=np.float32).squeeze() for k, t in tensors.items()}
        factors = {block: float(c) for block, c in coefficients.items()}
    for block, factor in factors.items():
        if not np.isfinite(factor):
            what, where = "a coefficient is not finite", f"{path}: {block}"
            raise UserError(what, where=where, found=factor, expected="a number")
    return vectors, factors


def _check_suffix(path: Path) -> None:
    if path.suffix not in FORMATS:
        found, known = path.suffix or "no suffix", " or ".join(FORMATS)
        raise UserError("unknown format", where=str(path), found=found, expected=known)


Tensors = tuple[dict[str, Any], dict[str, Any]]  # by name, and coefficients by block


def _read_safetensors(path: Path) -> Tensors:
    tensors, about = read_tensors(path)
    return dict(tensors), dict(json.loads(about.get("coefficients", "{}")))


def _read_torch(path: Path) -> Tensors:
    """Of lm-eval or bare; the weights-only loader runs no code of the file."""
    entries = torch.load(path, weights_only=True, map_location="cpu")
    if isinstance(entries, torch.Tensor):
        rows = entries.float().numpy()
        if rows.ndim == 2 and len(rows) > 1:  # one row a block
            return {str(block): row for block, row in enumerate(rows)}, {}
        return {"vector": rows}, {}
    if entries and all(isinstance(entry, torch.Tensor) for entry in entries.values()):
        return {str(k): entry.float().numpy() for k, entry in entries.items()}, {}
    if not entries or any(entry["action"] != "add" for entry in entries.values()):
        raise ValueError("an action other than add, or nothing")
    tensors = {str(k): v["steering_vector"].float().numpy() for k, v in entries.items()}
    factors = {k.rpartition(".")[2]: v["steering_coefficient"] for k, v in entries.items()}
    return tensors, factors


def _read_gguf(path: Path) -> Tensors:
    return {t.name: np.array(t.data) for t in gguf.GGUFReader(str(path)).tensors}, {}


FORMATS = {
    ".safetensors": (_read_safetensors, _write_safetensors),
    ".pt": (_read_torch, _write_lm_eval),
    ".gguf": (_read_gguf, _write_gguf),
}
SUFFIXES = tuple(FORMATS)


def biases(
    model: PreTrainedModel, rows: Sequence[Intervention], positions: str = "all"
) -> dict[int, Vector]:
    """The bias float32 [width] of each steered block; several additions at a block are summed.

    Raises:
        UserError: ablation, limited positions, a vector or block that does not fit the model.
    """
    only_additions(rows, positions, "baked")
    blocks = len(decoder_blocks(model))
    check_blocks([row.layer for row in rows], blocks, "an intervention")
    found: dict[int, Vector] = {}
    for row in rows:
        check_vector(row.vector, model.config.hidden_size, f"block {row.layer}")
        change = (row.coefficient * row.vector).astype(np.float32)
        found[row.layer] = found[row.layer] + change if row.layer in found else change
    return found


def bake(model: PreTrainedModel, by_layer: Mapping[int, Vector]) -> PreTrainedModel:
    """Puts the biases into `model` itself, which then needs no hook; returns it."""
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
            bias = block.mlp.down_proj.bias
            with torch.no_grad():
                bias += torch.from_numpy(by_layer[layer]).to(bias)
    model.config.mlp_bias = True
    return model
