"""Steering vectors as files of other tools: lm-eval `.pt`, repeng GGUF, safetensors, bare tensors.

All add `coefficient * vector` to the output of a block, at all positions. GGUF (also read by
llama.cpp) has no coefficients, so they are multiplied in, and no block 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from em_geometry.errors import UserError, first_line
from em_geometry.io.atomic import atomic_path
from em_geometry.io.files import missing, read_tensors, write_tensors
from em_geometry.steering.hooks import Intervention

SUFFIXES = (".safetensors", ".pt", ".gguf")


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
        found=reason,
        where="the interventions",
        expected="additions at all positions",
    )


def write_vectors(path: Path, rows: Sequence[Intervention], positions: str = "all") -> None:
    """Exports additions in the format that the suffix names.

    Raises:
        UserError: ablation, limited positions, unknown suffix, or a block the format cannot hold.
    """
    only_additions(rows, positions, "exported")
    summed: dict[int, Any] = {}
    for row in rows:
        summed[row.layer] = summed.get(row.layer, 0.0) + row.coefficient * row.vector
    if path.suffix == ".gguf" and 0 in summed:
        raise UserError(
            "a GGUF control vector cannot act on block 0",
            where=str(path),
            found="block 0",
            expected="a later block, or another format",
        )
    if path.suffix == ".pt" and len(summed) > 1:
        raise UserError(
            "one block a file", where=str(path), found=f"blocks {sorted(summed)}",
            hint="lm-eval's `steered` model would apply the last one's vector at every block",
        )  # fmt: skip
    if path.suffix not in SUFFIXES:
        raise UserError(
            "unknown format",
            where=str(path),
            expected=" or ".join(SUFFIXES),
            found=path.suffix or "no suffix",
        )
    units = {k: (v / np.linalg.norm(v), float(np.linalg.norm(v))) for k, v in summed.items()}
    if path.suffix == ".safetensors":
        about = {"coefficients": json.dumps({str(k): c for k, (_, c) in units.items()})}
        write_tensors(
            path, {f"layers.{k}": v.astype(np.float32) for k, (v, _) in units.items()}, about
        )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        if path.suffix == ".pt":
            import torch

            saved = {
                f"layers.{k}": {
                    "action": "add",
                    "steering_coefficient": c,
                    "steering_vector": torch.from_numpy(v.astype(np.float32)),
                    "bias": None,
                }
                for k, (v, c) in units.items()
            }
            torch.save(saved, temporary)  # read back by the weights-only loader alone
        else:
            import gguf

            writer = gguf.GGUFWriter(str(temporary), "controlvector")
            writer.add_string("controlvector.model_hint", "llama")
            writer.add_uint32("controlvector.layer_count", len(summed))
            for layer, vector in sorted(summed.items()):
                writer.add_tensor(f"direction.{layer}", vector.astype(np.float32))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()


def read_vectors(path: Path, layer: int | None = None) -> list[Intervention]:
    """Imports vectors; a bare tensor [width] (or [1, width]) needs the block it acts on.

    Raises:
        UserError: no such file, another format, code in a `.pt`, no block for a bare tensor.
    """
    if not path.is_file():
        raise missing(path)
    coefficients: dict[str, float] = {}
    if path.suffix == ".safetensors":
        tensors, about = read_tensors(path)
        with _whole(path):
            coefficients = dict(json.loads(about.get("coefficients", "{}")))
    elif path.suffix == ".gguf":
        import gguf

        with _whole(path):
            tensors = {t.name: np.array(t.data) for t in gguf.GGUFReader(str(path)).tensors}
    elif path.suffix == ".pt":
        tensors, coefficients = _torch_file(path)
    else:
        raise UserError(
            "unknown format",
            where=str(path),
            expected=" or ".join(SUFFIXES),
            found=path.suffix or "no suffix",
        )
    rows = []
    for name, tensor in tensors.items():
        number = name.rpartition(".")[2]
        if not number.isdigit() and (layer is None or len(tensors) > 1):
            raise UserError(
                "which block does this vector act on?", where=f"{path}: {name}",
                expected="names like layers.14, or one tensor and its block", found=name,
            )  # fmt: skip
        block = int(number) if number.isdigit() else layer
        assert block is not None
        with _whole(path):
            vector = np.asarray(tensor, dtype=np.float32).squeeze()
            coefficient = float(coefficients.get(number, 1.0))
        if not np.isfinite(coefficient):
            raise UserError(
                "a vector's coefficient is not finite", where=f"{path}: {name}",
                found=coefficient, expected="a number",
            )  # fmt: skip
        rows.append(Intervention(vector, block, coefficient))
    return rows


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """What a parser says about a damaged or foreign file, as a UserError.

    Parsers of others fail in any way on damaged bytes (numpy, struct, mmap, zip, unpickling).
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            "not a steering file, or damaged", where=str(path), found=first_line(error)[:200],
            expected="a tensor, layers.<block> tensors, or lm-eval's "
            "{hookpoint: {action: add, steering_vector, steering_coefficient}}",
            hint="save the tensors alone, as safetensors",
        ) from None  # fmt: skip


def _torch_file(path: Path) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Tensors and coefficients of a `.pt` file; the weights-only loader runs no code of it."""
    import torch

    with _whole(path):
        found = torch.load(path, weights_only=True, map_location="cpu")
        if isinstance(found, torch.Tensor):
            return {"vector": found.float().numpy()}, {}
        if not found or any(entry["action"] != "add" for entry in found.values()):
            raise ValueError("an action other than add, or nothing")
        tensors = {str(k): v["steering_vector"].float().numpy() for k, v in found.items()}
        factors = {k.rpartition(".")[2]: v["steering_coefficient"] for k, v in found.items()}
        return tensors, factors
