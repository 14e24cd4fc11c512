"""Steering by hooks: one vector for all that a model does, or one for each row of a batch.

docs/method.md, steering. Addition: x <- x + c v; ablation: x <- x - (x.v) v, at the output of one
decoder block. Rows with coefficient 0 and rows of other blocks are not touched at all, so scale
0 equals the unhooked model bit for bit.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from em_geometry.activations.blocks import check_blocks, decoder_blocks, hidden, replaced
from em_geometry.errors import UserError
from em_geometry.io.files import check_vector
from em_geometry.steering.conditions import Intervention


@contextmanager
def steered(
    model: PreTrainedModel,
    vector: npt.ArrayLike,
    block: int,
    dose: float | None = None,
    coefficient: float | None = None,
) -> Iterator[None]:
    """Adds a vector to all that a model does inside `with`: every forward pass, every token.

    For notebooks and other code that calls the model itself, as `model.generate` does:

        vectors = read_vectors(Path("vectors.safetensors"))  # em_geometry.steering.formats
        with steered(model, vectors["finance"], block=14, dose=0.3):
            output = model.generate(**inputs)

    Args:
        vector: [width], an array or a tensor.
        block: decoder block, from 0, at whose output the vector acts.
        dose: length of what is added, as a share of the mean residual norm at the block. The norm
            is measured in the first forward pass inside, over all tokens but each row's first,
            whose norm is out of proportion (padding counts, so pass one prompt, or none padded).
        coefficient: instead of a dose, the factor of the vector as it is.
    Raises:
        UserError: a vector or block that does not fit; not exactly one of dose and coefficient.
    """
    if (dose is None) == (coefficient is None):
        both = f"dose={dose}, coefficient={coefficient}"
        raise UserError("how far to steer?", where="steered()", found=both, expected="one of them")
    raw = torch.as_tensor(vector).detach().float().cpu().numpy()
    blocks = decoder_blocks(model)
    check_vector(raw, model.config.get_text_config().hidden_size, "steered()")
    check_blocks([block], len(blocks), "steered()")
    unit = torch.from_numpy(raw / np.linalg.norm(raw))
    added = None if coefficient is None else coefficient * torch.from_numpy(raw)

    def hook(module: Any, args: Any, output: Any) -> Any:
        nonlocal added
        states = hidden(output)
        if added is None:
            measured = states[:, 1:] if states.shape[1] > 1 else states
            added = unit * (dose or 0.0) * measured.detach().float().norm(dim=-1).mean().cpu()
        return replaced(output, states + added.to(states))

    handle = blocks[block].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class Steering:
    """The interventions of the rows of the current batch.

    Attributes:
        mask: bool tensor [batch, tokens]: positions that the next forward pass steers. Set it
            before each pass; with a KV cache, a pass sees only its new tokens.
    """

    def __init__(self, model: PreTrainedModel, rows: Sequence[Intervention | None]) -> None:
        width = model.config.get_text_config().hidden_size
        self.mask: torch.Tensor | None = None
        # (layer, mode) -> is the row touched, its vector
        self._plan: dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]] = {}
        for i, row in enumerate(rows):
            if row is None or not row.active:
                continue
            key, factor = (row.layer, row.mode), row.coefficient if row.mode == "add" else 1.0
            if key not in self._plan:
                self._plan[key] = (torch.zeros(len(rows)).bool(), torch.zeros(len(rows), width))
            touched, vectors = self._plan[key]
            touched[i] = True
            vectors[i] = factor * torch.from_numpy(np.array(row.vector, dtype=np.float32))
        self._change(lambda t: t.to(model.device))

    def _change(self, how: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._plan = {key: (how(t), how(vectors)) for key, (t, vectors) in self._plan.items()}

    @property
    def layers(self) -> list[int]:
        return sorted({layer for layer, _ in self._plan})

    def keep(self, rows: torch.Tensor) -> None:
        """Goes on with these rows of the batch only (finished rows are dropped)."""
        self._change(lambda tensor: tensor[rows])

    def apply(self, layer: int, states: torch.Tensor) -> torch.Tensor:
        """The steered hidden states [batch, tokens, width] of one block."""
        for (block, mode), tensors in self._plan.items():
            if block != layer:
                continue
            assert self.mask is not None
            # A block may lie on another device than the model's first.
            touched, vectors, mask = (t.to(states.device) for t in (*tensors, self.mask))
            change = vectors[:, None]
            if mode == "ablate":
                change = -torch.einsum("btd,bd->bt", states.float(), vectors)[..., None] * change
            where = touched[:, None, None] & mask.unsqueeze(-1)
            states = torch.where(where, states + change.to(states.dtype), states)
        return states


@contextmanager
def steering_rows(
    model: PreTrainedModel, rows: Sequence[Intervention | None]
) -> Iterator[Steering]:
    """Steers each row of a batch in its own way; the hooks leave when the block ends."""
    steering = Steering(model, rows)
    blocks = decoder_blocks(model)
    check_blocks([row.layer for row in rows if row is not None], len(blocks), "an intervention")

    def hook(layer: int) -> Any:
        return lambda module, args, output: replaced(output, steering.apply(layer, hidden(output)))

    with ExitStack() as stack:
        for layer in steering.layers:
            stack.callback(blocks[layer].register_forward_hook(hook(layer)).remove)
        yield steering
