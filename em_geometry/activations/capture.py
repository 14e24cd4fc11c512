"""Means of the residual stream over token spans, all blocks in one forward pass.

docs/method.md, capture. The residual stream is read at the output of each decoder block. Means
are accumulated on the fly in float32 on the device; full hidden states are never kept and the
language-model head is not run.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from em_geometry.activations.blocks import block_stack, decoder_blocks, hidden
from em_geometry.io.journal import Spread
from em_geometry.progress import Progress

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from transformers.cache_utils import Cache

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Text:
    """A token sequence and the half-open token ranges to average over, one per span.

    Its first `shared` tokens, which no span covers, are read once for all texts of a batch that
    begin with them.
    """

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    shared: int = 0

    @property
    def beginning(self) -> tuple[int, ...]:
        return self.ids[: self.shared]


def sorted_batches(keys: Sequence[Any], size: int) -> list[list[int]]:
    """Indices in batches of like key (ties in order): of like length, so that little is padding."""
    order = sorted(range(len(keys)), key=lambda i: (keys[i], i))
    return [order[i : i + size] for i in range(0, len(order), size)]


def distinct(keys: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """Places of the first of each distinct key, and each key's index among those."""
    first: dict[Hashable, int] = {}
    index = [first.setdefault(key, len(first)) for key in keys]
    places = [0] * len(first)
    for place in reversed(range(len(index))):
        places[index[place]] = place
    return places, index


def padded(
    rows: Sequence[Sequence[int]], side: str, device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor]:
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


def token_positions(mask: torch.Tensor) -> torch.Tensor:
    """Position of each token [batch, tokens] among those that the mask has, 0 for padding."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def capture(model: PreTrainedModel, texts: Sequence[Text]) -> tuple[torch.Tensor, torch.Tensor]:
    """Span means and residual norms of one batch, padded at the right.

    Args:
        model: causal language model.
        texts: the batch; each with the same number of spans.
    Returns:
        means: float32 tensor [batch, spans, blocks, width].
        norms: float32 tensor [batch, spans, blocks], mean Euclidean norm of the span's tokens.
    """
    import torch

    ids, mask = padded([t.ids[t.shared :] for t in texts], "right", model.device)
    weights = torch.zeros(len(texts), len(texts[0].spans), ids.shape[1])
    for row, text in enumerate(texts):
        for span, (start, stop) in enumerate(text.spans):
            weights[row, span, start - text.shared : stop - text.shared] = 1.0 / (stop - start)
    weights = weights.to(model.device)
    cache, before = _beginnings(model, texts, ids.shape[1])
    means: list[torch.Tensor] = []
    norms: list[torch.Tensor] = []

    def read(module: Any, args: Any, output: Any) -> None:
        states = hidden(output).float()
        here = weights.to(states.device)  # blocks may lie on several devices
        means.append(torch.einsum("bst,btd->bsd", here, states).to(weights.device))
        norms.append(torch.einsum("bst,bt->bs", here, states.norm(dim=-1)).to(weights.device))

    with ExitStack() as stack, torch.no_grad():
        for block in decoder_blocks(model):
            stack.callback(block.register_forward_hook(read).remove)
        block_stack(model)(
            input_ids=ids,
            attention_mask=torch.cat([before, mask], dim=-1),
            position_ids=before.sum(-1, keepdim=True) + token_positions(mask),
            past_key_values=cache,
            use_cache=cache is not None,
        )
    return torch.stack(means, dim=2), torch.stack(norms, dim=2)


def _beginnings(
    model: PreTrainedModel, texts: Sequence[Text], room: int
) -> tuple[Cache | None, torch.Tensor]:
    """KV cache with room for more tokens (None: nothing is shared), and mask, of the beginnings."""
    import torch

    if not any(text.shared for text in texts):
        return None, torch.zeros(len(texts), 0, dtype=torch.long, device=model.device)
    from em_geometry.activations.cache import Cache, fill

    places, index = distinct([text.beginning for text in texts])
    ids, mask = padded([texts[i].beginning for i in places], "left", model.device)
    with torch.no_grad():
        part = block_stack(model)(
            input_ids=ids, attention_mask=mask, position_ids=token_positions(mask), use_cache=True
        ).past_key_values
    layers: list[Any] = []
    rows = torch.tensor(index, device=model.device)
    everywhere = torch.arange(len(texts), device=model.device)
    fill(layers, part, everywhere, [rows] * len(part.layers), len(texts), room)
    return Cache(layers=layers), mask[rows]


def captured(
    model: PreTrainedModel,
    texts: Sequence[Text],
    batch_size: int,
    label: str,
    over: Spread | None = None,
) -> Iterator[tuple[list[int], Floats, Floats]]:
    """`capture` over any number of texts, in batches of like beginning and length, with progress.

    Args:
        over: does batches elsewhere (`capture_worker`); None = here, with `model`.
    Yields:
        Indices, means and norms of each batch as it is finished, in any order.
    """
    batches = sorted_batches([(text.beginning, len(text.ids)) for text in texts], batch_size)
    todo = [[texts[i] for i in batch] for batch in batches]
    with Progress(label, len(texts), unit="texts") as progress:
        results = over(todo) if over else enumerate(capture_arrays(model, b) for b in todo)
        for index, (means, norms) in results:
            yield batches[index], means, norms
            progress.advance(len(batches[index]))


def at_block(
    model: PreTrainedModel,
    texts: Sequence[Text],
    batch_size: int,
    label: str,
    span: int,
    block: int,
) -> npt.NDArray[np.float32]:
    """Activations float32 [text, width] over one span of the texts, at the output of a block."""
    rows: dict[int, Floats] = {}
    for where, means, _ in captured(model, texts, batch_size, label):
        rows |= zip(where, means[:, span, block], strict=True)
    return np.stack([rows[i] for i in range(len(texts))]).astype(np.float32)


def capture_arrays(model: PreTrainedModel, texts: Sequence[Text]) -> tuple[Floats, Floats]:
    """`capture` as arrays in this machine's memory."""
    means, norms = capture(model, texts)
    return means.cpu().numpy(), norms.cpu().numpy()
