"""LoRA adapters as factors: what they add to each matrix, and the vectors that rank 1 writes.

docs/method.md, more: subspaces, narrow. Nothing here loads a model.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from em_geometry.errors import UserError
from em_geometry.io.files import read_json, read_tensors
from em_geometry.models.folder import CONFIG, WEIGHTS, some
from em_geometry.models.load import RESIDUAL, UNTOLD, check_settings
from em_geometry.stats.estimate import Floats
from em_geometry.steering.formats import Held

# Matrices that write to the residual stream, by their names in the common families; others read.
WRITERS = (
    "o_proj", "down_proj", "out_proj", "dense", "dense_4h_to_h", "c_proj", "fc2", "fc_out", "w2",
)  # fmt: skip
PREFIX, A, B = "base_model.model.", ".lora_A.", ".lora_B."
BLOCK = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True, eq=False)
class Factors:
    """What an adapter adds to one matrix: `b @ a`.

    Attributes:
        module: of the model, `model.layers.14.mlp.down_proj`.
        a: [rank, in].
        b: [out, rank], the adapter's scale multiplied in.
    """

    module: str
    a: Floats
    b: Floats

    @property
    def block(self) -> int:
        """Decoder block."""
        found = BLOCK.search(self.module)
        assert found  # `factors` refuses others
        return int(found[1])

    @property
    def writes(self) -> bool:
        """Does the matrix write to the residual stream? Else it reads from it."""
        return self.module.rpartition(".")[2] in WRITERS

    @cached_property
    def svd(self) -> tuple[Floats, Floats, Floats]:
        """Singular value decomposition of the update: [out, rank], [rank], [rank, in]."""
        (q, r), (p, s) = np.linalg.qr(self.b), np.linalg.qr(self.a.T)
        left, sizes, right = np.linalg.svd(r @ s.T)
        return q @ left, sizes, right @ p.T

    @property
    def norm(self) -> float:
        """Frobenius norm of the update."""
        return float(np.linalg.norm(self.svd[1]))

    def side(self, rank: int) -> Floats:
        """Orthonormal rows [rank, width]: the leading directions on the residual stream's side."""
        left, _, right = self.svd
        return np.asarray(left[:, :rank].T if self.writes else right[:rank])


def inner(one: Factors, other: Factors) -> float:
    """Sum of the products of two updates' entries, without either matrix."""
    return float(((one.b.T @ other.b) * (one.a @ other.a.T)).sum())


def read_adapter(folder: Path) -> dict[str, Factors]:
    """The factors of a PEFT folder by module.

    Raises:
        UserError: a file is missing or damaged; no LoRA, or one that is more than a product.
    """
    settings: dict[str, Any] = read_json(folder / CONFIG, dict[str, Any])
    check_settings(settings, folder / CONFIG)
    tensors, _ = read_tensors(folder / WEIGHTS)
    found = {each.module: each for each in _factors(settings, tensors)}
    others = [name for name in tensors if not re.search(r"\.lora_[AB]\.(\w+\.)?weight$", name)]
    start = str(settings.get("init_lora_weights")).lower()
    more = "DoRA" if settings.get("use_dora") else "blocks" if settings.get("use_bdlora") else ""
    if start.startswith((*RESIDUAL, *UNTOLD)):  # the base is another one than the plain one
        more = f"init_lora_weights {start}"
    if more or others or not found:
        what = f"tensors {some(others)}" if others else more if found else "no lora_A"
        raise UserError(
            "not an adapter of products B A alone",
            where=folder,
            found=what,
            expected="lora_A and lora_B of matrices in decoder blocks",
        )
    return found


def _factors(settings: Mapping[str, Any], tensors: Mapping[str, Any]) -> Iterator[Factors]:
    patterns: Mapping[str, float] = settings.get("alpha_pattern") or {}
    for name, a in tensors.items():
        module, mark, rest = name.partition(A)
        b = tensors.get(f"{module}{B}{rest}")
        module = module.removeprefix(PREFIX)
        if not mark or b is None or not BLOCK.search(module):
            continue
        rank, alpha = len(a), settings["lora_alpha"]
        alpha = next((v for k, v in patterns.items() if re.match(rf"(.*\.)?({k})$", module)), alpha)
        scale = alpha / (rank**0.5 if settings.get("use_rslora") else rank)
        yield Factors(module, a.astype(np.float64), scale * b.astype(np.float64))


def written_vectors(folder: Path) -> dict[str, Held]:
    """What an adapter of rank 1 writes to the residual stream: by module, `b` at its block.

    `write_vectors` (steering.formats) puts them into a file, from which all commands read them. The
    sign is one of two: the adapter writes b times (a . input), which has both signs.

    Raises:
        UserError: as `read_adapter`; no matrix that writes, or one of another rank.
    """
    adapter = read_adapter(folder)
    wrong = [name for name, each in adapter.items() if not each.writes or len(each.a) != 1]
    if wrong:
        ranks = ", ".join(sorted({str(len(adapter[name].a)) for name in wrong}))
        raise UserError(
            "this adapter is not one direction a matrix",
            where=folder,
            found=f"rank {ranks}: {some(wrong)}",
            expected="rank 1, in matrices that write to the residual stream (down_proj)",
        )
    return {
        name: Held(name, each.b[:, 0].astype(np.float32), block=each.block)
        for name, each in adapter.items()
    }
