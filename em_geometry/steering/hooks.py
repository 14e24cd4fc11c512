"""Per-row steering: every row of a batch has its own vector, block and coefficient.

METHOD.md: Steering. Addition: x <- x + c v; ablation: x <- x - (x.v) v, at the output of one
decoder block. Rows with coefficient 0 and rows of other blocks are not touched at all, so scale
0 equals the unhooked model bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from em_geometry.activations.blocks import decoder_blocks, hidden, replaced
from em_geometry.errors import UserError


@dataclass(frozen=True, eq=False)
class Intervention:
    """What is done to one row.

    Attributes:
        vector: float32 [width]; unit length for ablation.
        layer: block at whose output it acts.
        coefficient: raw factor of the vector (units of the residual stream); unused by ablation.
        mode: add or ablate.
    """

    vector: np.ndarray
    layer: int
    coefficient: float = 0.0
    mode: Literal["add", "ablate"] = "add"

    @property
    def active(self) -> bool:
        return self.mode == "ablate" or self.coefficient != 0.0


def check_vector(vector: np.ndarray, width: int, name: str) -> None:
    """Raises UserError unless `vector` is finite, not zero and of the model's width."""
    if vector.shape != (width,):
        raise UserError(
            "the vector does not fit the model's residual stream",
            where=name,
            found=f"shape {tuple(vector.shape)}",
            expected=f"({width},)",
        )
    if not np.isfinite(vector).all():
        raise UserError(
            "the vector has NaN or infinite entries",
            where=name,
            found=f"{int((~np.isfinite(vector)).sum())} of {vector.size} entries",
            expected="finite numbers",
        )
    if not np.linalg.norm(vector) > 0:
        raise UserError("the vector is zero", where=name, expected="a direction", found="length 0")


def check_layers(rows: Sequence[Intervention | None], blocks: int) -> None:
    """Raises UserError when an intervention is at a block that the model does not have."""
    for row in rows:
        if row is not None and not 0 <= row.layer < blocks:
            raise UserError(
                "no such block in the model",
                found=row.layer,
                expected=f"0 to {blocks - 1}",
                where="an intervention",
            )


class Steering:
    """The interventions of the rows of the current batch.

    Attributes:
        mask: bool tensor [batch, tokens]: positions that the next forward pass steers. Set it
            before each pass; with a KV cache, a pass sees only its new tokens.
    """

    def __init__(self, model: Any, rows: Sequence[Intervention | None]) -> None:
        import torch

        width = model.config.get_text_config().hidden_size
        self.mask: Any = None
        # layer -> mode -> (is the row touched, its vector); modes and layers in use only
        self._plan: dict[int, dict[str, tuple[Any, Any]]] = {}
        active = [(i, r) for i, r in enumerate(rows) if r is not None and r.active]
        for i, row in active:
            modes = self._plan.setdefault(row.layer, {})
            if row.mode not in modes:
                modes[row.mode] = (torch.zeros(len(rows)).bool(), torch.zeros(len(rows), width))
            touched, vectors = modes[row.mode]
            factor = row.coefficient if row.mode == "add" else 1.0
            touched[i] = True
            vectors[i] = factor * torch.from_numpy(np.asarray(row.vector, dtype=np.float32))
        self._change(lambda t: t.to(model.device))

    def _change(self, how: Callable[[Any], Any]) -> None:
        for modes in self._plan.values():
            for mode, (touched, vectors) in modes.items():
                modes[mode] = (how(touched), how(vectors))

    @property
    def layers(self) -> list[int]:
        return sorted(self._plan)

    def keep(self, rows: Any) -> None:
        """Goes on with these rows of the batch only (finished rows are dropped)."""
        self._change(lambda tensor: tensor[rows])

    def apply(self, layer: int, states: Any) -> Any:
        """The steered hidden states [batch, tokens, width] of one block."""
        import torch

        for mode, tensors in self._plan.get(layer, {}).items():
            # A block may lie on another device than the model's first.
            touched, vectors, mask = (t.to(states.device) for t in (*tensors, self.mask))
            change = vectors[:, None]
            if mode == "ablate":
                change = -torch.einsum("btd,bd->bt", states.float(), vectors)[..., None] * change
            where = touched[:, None, None] & mask.unsqueeze(-1)
            states = torch.where(where, states + change.to(states.dtype), states)
        return states


@contextmanager
def steered(model: Any, rows: Sequence[Intervention | None]) -> Iterator[Steering]:
    """Steers the model's forward passes; the hooks leave when the block ends, even by error."""
    steering = Steering(model, rows)
    blocks = decoder_blocks(model)
    check_layers(rows, len(blocks))

    def hook(layer: int) -> Any:
        return lambda module, args, output: replaced(output, steering.apply(layer, hidden(output)))

    with ExitStack() as stack:
        for layer in steering.layers:
            stack.callback(blocks[layer].register_forward_hook(hook(layer)).remove)
        yield steering
