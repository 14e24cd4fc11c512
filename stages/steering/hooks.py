"""Per-row steering: every row of a batch has its own vector, block and coefficient.

METHOD.md: Steering. Addition: x <- x + c v; ablation: x <- x - (x.v) v, at the output of one
decoder block. Rows with coefficient 0 and rows of other blocks are not touched at all, so scale
0 equals the unhooked model bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from stages.activations.blocks import decoder_blocks, hidden, replaced
from stages.common.errors import UserError


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
        raise UserError("the vector has NaN or infinite entries", where=name)
    if not np.linalg.norm(vector) > 0:
        raise UserError("the vector is zero", where=name, expected="a direction")


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
        active = [(i, r) for i, r in enumerate(rows) if r is not None and r.active]
        self._plan: dict[int, tuple[Any, Any]] = {}  # layer -> (what to add, what to ablate)
        for layer in sorted({r.layer for _, r in active}):
            add = torch.zeros(len(rows), width)
            remove = torch.zeros(len(rows), width)
            for i, r in active:
                if r.layer != layer:
                    continue
                vector = torch.from_numpy(np.asarray(r.vector, dtype=np.float32))
                if r.mode == "add":
                    add[i] = r.coefficient * vector
                else:
                    remove[i] = vector
            self._plan[layer] = (add.to(model.device), remove.to(model.device))

    @property
    def layers(self) -> list[int]:
        return list(self._plan)

    def keep(self, rows: Any) -> None:
        """Goes on with these rows of the batch only (finished rows are dropped)."""
        self._plan = {
            layer: (add[rows], remove[rows]) for layer, (add, remove) in self._plan.items()
        }

    def apply(self, layer: int, states: Any) -> Any:
        """The steered hidden states [batch, tokens, width] of one block."""
        import torch

        add, remove = self._plan[layer]
        mask = self.mask.unsqueeze(-1)
        steered = states
        if bool(add.any()):
            changed = add.any(-1)[:, None, None] & mask
            steered = torch.where(changed, steered + add[:, None].to(states.dtype), steered)
        if bool(remove.any()):
            share = torch.einsum("btd,bd->bt", states.float(), remove)
            projection = (share[..., None] * remove[:, None]).to(states.dtype)
            changed = remove.any(-1)[:, None, None] & mask
            steered = torch.where(changed, steered - projection, steered)
        return steered


@contextmanager
def steered(model: Any, rows: Sequence[Intervention | None]) -> Iterator[Steering]:
    """Steers the model's forward passes; the hooks leave when the block ends, even by error."""
    steering = Steering(model, rows)
    blocks = decoder_blocks(model)
    for layer in steering.layers:
        if not 0 <= layer < len(blocks):
            raise UserError(
                "no such block in the model", found=layer, expected=f"0 to {len(blocks) - 1}"
            )

    def hook(layer: int) -> Any:
        return lambda module, args, output: replaced(output, steering.apply(layer, hidden(output)))

    with ExitStack() as stack:
        for layer in steering.layers:
            stack.callback(blocks[layer].register_forward_hook(hook(layer)).remove)
        yield steering
