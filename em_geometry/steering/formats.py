"""Steering as files: vectors in the formats of several tools, and models with a vector baked in.

Vectors are read from safetensors, numpy's files, control vectors in GGUF (repeng, llama.cpp) and
torch's files (lm-eval's, a tensor, tensors by block), and written in three of these. All add
`coefficient * vector` to the output of a block, at all positions.

Blocks are counted from 0, as everywhere here. The name of a tensor says its block: `14`,
`layers.14`, `direction.14` (GGUF has no block 0, and `direction.1` is the second block; it has no
coefficients, so they are multiplied in), but not `v.14`. In a tensor [rows, width] each row is of a
block; where there is one row more than blocks, as persona-vectors writes them, row 0 is of the
embeddings and row n of block n - 1.

Baking (docs/method.md, steering): a constant added at all positions after block l is a bias on that
block's `mlp.down_proj`, so a steered Llama model is an ordinary checkpoint.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import gguf
import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from em_geometry.activations.blocks import check_blocks, decoder_blocks
from em_geometry.errors import UserError, explained
from em_geometry.io.files import atomic_path, check_vector, read_tensors, there, write_tensors
from em_geometry.models.folder import some
from em_geometry.steering.conditions import Intervention, Vector


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
    _check_suffix(path, WRITERS)
    summed: dict[int, Any] = {}
    for row in rows:
        summed[row.layer] = summed.get(row.layer, 0.0) + row.coefficient * row.vector
    limit = None
    if path.suffix.lower() == ".gguf" and 0 in summed:
        limit = "a GGUF control vector cannot act on block 0"
    elif (
        path.suffix.lower() == ".pt" and len(summed) > 1
    ):  # lm-eval would apply the last one everywhere
        limit = "one block a file, in lm-eval's format"
    if limit is not None:
        blocks = f"blocks {sorted(summed)}"
        raise UserError(limit, where=str(path), found=blocks, expected="others, or safetensors")
    with atomic_path(path) as temporary:
        WRITERS[path.suffix.lower()](temporary, summed)


def write_rows(path: Path, rows: Sequence[Vector]) -> None:
    """A vector of every block, raw, as persona-vectors keeps it: [blocks + 1, width] in a `.pt`.

    Row n + 1 is of block n; row 0 is of the embeddings, zero where there is none.
    """
    with atomic_path(path) as temporary:
        torch.save(torch.from_numpy(np.stack(rows)), temporary)


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


@dataclass(frozen=True, eq=False)
class Held:
    """A vector as a file holds it.

    Attributes:
        name: of its tensor.
        vector: float32 [width]; another shape in a file that is to be refused.
        coefficient: its factor in the file.
        block: that the file says; None where it says none.
        rows: number of rows of the tensor that it is a row of, else 0.
    """

    name: str
    vector: Vector
    coefficient: float = 1.0
    block: int | None = None
    rows: int = 0

    def acts_at(self, path: Path, blocks: int | None = None) -> int:
        """Its block in a model of so many blocks (None: unknown), on which rows depend."""
        where = f"{path}: {self.name}"
        if self.block is None:
            what, hint = "which block does this vector act on?", "say it by --layer, counted from 0"
            expected = "a block in the tensor's name"
            raise UserError(what, where=where, found=self.name, expected=expected, hint=hint)
        if self.block < 0:
            what, expected = "what enters block 0 is no block's output", "a point after block 0"
            raise UserError(what, where=where, found=self.name, expected=expected)
        if not self.rows:
            return self.block
        if blocks is None:
            what, expected = "of which block is this row?", "the model's number of blocks"
            found = f"row {self.block} of {self.rows}, whose first may be of the embeddings"
            hint = "dvc repro base_model, in a project of this model"
            raise UserError(what, where=where, found=found, expected=expected, hint=hint)
        extra = self.rows - blocks
        if extra not in (0, 1) or self.block < extra:
            expected = f"{blocks} rows, a block each, or {blocks + 1}, whose first is no block's"
            found = f"row {self.block} of {self.rows}"
            raise UserError("a row of no block", where=where, found=found, expected=expected)
        return self.block - extra


def read_vectors(path: Path | str) -> dict[str, Vector]:
    """Named vectors float32 [width] of a file of any of these formats, as they are.

    Raises:
        UserError: no such file, another format, code in a `.pt`.
    """
    held = read_held(Path(path))
    return {f"{h.name}.{h.block}" if h.rows else h.name: h.vector for h in held}


def read_vector(path: Path, layer: int | None = None, name: str | None = None) -> Held:
    """The one vector of a file that block and name leave.

    Args:
        layer: its block or row; of a vector for which the file says none, the block it acts on.
        name: of its tensor.
    Raises:
        UserError: as `read_vectors`; none or several such vectors in the file.
    """
    held = read_held(path)
    blocks = {None, layer} if layer is not None else {h.block for h in held}
    fitting = [h for h in held if name in (None, h.name) and h.block in blocks]
    if len(fitting) != 1:
        names = {h.name + _place(h) for h in held}
        asked = [f"{k} {v}" for k, v in (("block", layer), ("name", name)) if v is not None]
        raise UserError(
            "which of these vectors?" if fitting else "no such vector in this file",
            where=path,
            found=some(names),
            expected=", ".join(asked) or "one of them",
            hint="--layer chooses a block or row, --name a tensor",
        )
    return replace(fitting[0], block=layer) if layer is not None else fitting[0]


def _place(held: Held) -> str:
    """What a message says beside a vector's name where that alone would mislead."""
    if BEFORE in held.name.lower() and held.block is not None:
        return f" (leaves block {held.block})"
    return f" (rows 0 to {held.rows - 1})" if held.rows else ""


def read_held(path: Path) -> list[Held]:
    """Every vector of a file, with what it says of each; raises as `read_vectors`."""
    _check_suffix(there(path), READERS)
    # Parsers of others fail in any way on damaged bytes (numpy, struct, mmap, zip, unpickling).
    with explained(
        "not a steering file, or damaged",
        where=str(path),
        expected="a tensor, tensors by block, or lm-eval's "
        "{hookpoint: {action: add, steering_vector, steering_coefficient}}",
        hint=ALONE,
    ):
        tensors, factors, blocks = READERS[path.suffix.lower()](path)
        found = [h for name, array in tensors.items() for h in _held(name, array, factors, blocks)]
        if not found:
            raise ValueError("it holds no tensor")
    for held in found:
        if not np.isfinite(held.coefficient):
            what, where = "a coefficient is not finite", f"{path}: {held.name}"
            raise UserError(what, where=where, found=held.coefficient, expected="a number")
    return found


def _held(name: str, array: Array, factors: Numbers, blocks: Numbers) -> list[Held]:
    """The vector that a tensor is ([1, width] too), or its rows where nothing says its block."""
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} holds {array.dtype}, not real numbers")
    vector, said = array.astype(np.float32).squeeze(), BLOCK.search(name)
    block = said and int(said[1]) - (BEFORE in name.lower())
    if name in blocks:
        block = int(str(blocks[name]))
    if block is None and vector.ndim == 2:
        return [Held(name, row, block=n, rows=len(vector)) for n, row in enumerate(vector)]
    return [Held(name, vector, float(factors.get(name, factors.get(str(block), 1.0))), block)]


def _check_suffix(path: Path, known: Mapping[str, object]) -> None:
    if path.suffix.lower() not in known:
        found, expected = path.suffix or "no suffix", " or ".join(known)
        raise UserError("unknown format", where=str(path), found=found, expected=expected)


def _read_safetensors(path: Path) -> Tensors:
    """Ours with coefficients by block, the layer sweep's with lengths and blocks by name.

    The table of all vectors has [models, blocks, width] by contrast and span; models without a
    vector are left out.
    """
    tensors, about = read_tensors(path, ALONE)
    if "models" in about:
        models = json.loads(about["models"])
        named = {
            f"{how}.{m}": rows
            for how, each in tensors.items()
            for m, rows in zip(models, each, strict=True)
        }
        return {name: rows for name, rows in named.items() if rows.any()}, {}, {}
    factors, blocks = (json.loads(about.get(key, "{}")) for key in ("coefficients", "layers"))
    return tensors, json.loads(about["norms"]) if "norms" in about else factors, blocks


def _read_torch(path: Path) -> Tensors:
    """Of lm-eval, bare, or by block; the weights-only loader runs no code of the file."""
    try:
        found = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch's message tells how to run what the file holds
        other = re.search(r"GLOBAL (\S+)", str(error))
        if other is None:
            raise ValueError("bytes that torch cannot read") from None
        kind = "numpy arrays" if other[1].startswith("numpy") else other[1]
        raise ValueError(f"{kind} beside, or in place of, torch's tensors") from None
    if isinstance(found, list | tuple):  # hidden states, of which the first are the embeddings
        found = torch.stack([*found])
    if isinstance(found, torch.Tensor):
        found = {"vector": found}
    tensors, factors = {}, {}
    for key, entry in dict(found).items():
        if isinstance(entry, dict):
            if "action" not in entry:
                raise ValueError(f"a dictionary in {key}: one too deep, save what is in it alone")
            if entry["action"] != "add":
                raise ValueError(f"{key}: {entry['action']}, not add")
            factors[str(key)], entry = entry["steering_coefficient"], entry["steering_vector"]
        if not isinstance(entry, torch.Tensor) or entry.is_complex():
            raise ValueError(f"{key} is a {type(entry).__name__}, not a tensor of real numbers")
        tensors[str(key)] = entry.detach().float().numpy()  # a parameter has a gradient
    return tensors, factors, {}


def _read_gguf(path: Path) -> Tensors:
    tensors = gguf.GGUFReader(str(path)).tensors
    if others := [t.name for t in tensors if not t.name.startswith("direction.")]:
        raise ValueError(f"{others[0]} is no part of a control vector")
    return {t.name: gguf.dequantize(t.data, t.tensor_type) for t in tensors}, {}, {}


def _read_numpy(path: Path) -> Tensors:
    found = np.load(path, allow_pickle=False)
    return {"vector": found} if isinstance(found, np.ndarray) else dict(found.items()), {}, {}


Array: TypeAlias = npt.NDArray[Any]
Numbers: TypeAlias = Mapping[str, Any]
Tensors: TypeAlias = tuple[Mapping[str, Array], Numbers, Numbers]  # then coefficients, blocks
BLOCK = re.compile(  # not any number after a dot: names hold versions, as in qwen2.5
    r"(?:^|(?:^|[._])(?:layers?|blocks?|direction|h|resid(?:_pre|_post)?)[._]?)(\d+)"
    r"(?:\.hook_resid_(?:pre|post))?$",
    re.I,
)
BEFORE = "resid_pre"  # what enters a block leaves the one before
ALONE = "save the tensors alone, as safetensors"
READERS = {
    ".safetensors": _read_safetensors, ".pt": _read_torch, ".pth": _read_torch,
    ".gguf": _read_gguf, ".npy": _read_numpy, ".npz": _read_numpy,
}  # fmt: skip
WRITERS = {".safetensors": _write_safetensors, ".pt": _write_lm_eval, ".gguf": _write_gguf}
SUFFIXES = tuple(READERS)


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
