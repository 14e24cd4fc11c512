"""Means of the residual stream over token spans, all blocks in one forward pass.

METHOD.md: capture. The residual stream is read at the output of each decoder block. Means are
accumulated on the fly in float32 on the device; full hidden states are never kept and the
language-model head is not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from stages.activations.blocks import block_stack, decoder_blocks, hidden


@dataclass(frozen=True)
class Text:
    """A token sequence and the half-open token ranges to average over, one per span."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


def length_sorted_batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Indices in batches of similar length (ties in order), so that little is padding."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    return [order[i : i + size] for i in range(0, len(order), size)]


def padded(rows: Sequence[Sequence[int]], side: str, device: Any) -> tuple[Any, Any]:
    """Token ids and attention mask [batch, tokens], padded with 0 on the given side."""
    import torch

    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        part = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[i, part] = torch.tensor(row)
        mask[i, part] = 1
    return ids.to(device), mask.to(device)


def capture(model: Any, texts: Sequence[Text], side: str = "right") -> tuple[Any, Any]:
    """Span means and residual norms of one batch.

    Args:
        model: causal language model.
        texts: the batch; each with the same number of spans.
        side: padding side; results do not depend on it.
    Returns:
        means: float32 tensor [batch, spans, blocks, width].
        norms: float32 tensor [batch, spans, blocks], mean Euclidean norm of the span's tokens.
    """
    import torch

    ids, mask = padded([t.ids for t in texts], side, model.device)
    weights = torch.zeros(len(texts), len(texts[0].spans), ids.shape[1])
    for row, text in enumerate(texts):
        shift = ids.shape[1] - len(text.ids) if side == "left" else 0
        for span, (start, stop) in enumerate(text.spans):
            weights[row, span, start + shift : stop + shift] = 1.0 / (stop - start)
    weights = weights.to(model.device)
    means: list[Any] = []
    norms: list[Any] = []

    def read(module: Any, args: Any, output: Any) -> None:
        states = hidden(output).float()
        here = weights.to(states.device)  # blocks may lie on several devices
        means.append(torch.einsum("bst,btd->bsd", here, states).to(weights.device))
        norms.append(torch.einsum("bst,bt->bs", here, states.norm(dim=-1)).to(weights.device))

    with ExitStack() as stack:
        for block in decoder_blocks(model):
            stack.callback(block.register_forward_hook(read).remove)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            block_stack(model)(
                input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
            )
    return torch.stack(means, dim=2), torch.stack(norms, dim=2)
