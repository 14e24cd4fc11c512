"""Means of the residual stream over token spans, all blocks in one forward pass, into a file.

docs/method.md, capture. The residual stream is read at the output of each decoder block. Means
are accumulated on the fly in float32 on the device; full hidden states are never kept, the
language-model head is not run, and only the batches in work are in memory.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from em_geometry.activations.blocks import (
    Cache,
    block_stack,
    decoder_blocks,
    distinct,
    fill,
    hidden,
    token_positions,
)
from em_geometry.activations.prompts import Text
from em_geometry.engine import spread
from em_geometry.io.files import tensor_file
from em_geometry.io.journal import Spread
from em_geometry.models.chat import padded, sorted_batches
from em_geometry.models.load import Loaded, Models
from em_geometry.progress import Progress
from em_geometry.settings import Workers

Floats = npt.NDArray[np.float32]
LAYERS = "output of decoder block l, l = 0..L-1"
LOCAL = Workers()


def capture(model: PreTrainedModel, texts: Sequence[Text]) -> tuple[torch.Tensor, torch.Tensor]:
    """Span means and residual norms of one batch, padded at the right.

    Args:
        texts: the batch; each with the same number of spans.
    Returns:
        means: float32 tensor [batch, spans, blocks, width].
        norms: float32 tensor [batch, spans, blocks], mean Euclidean norm of the span's tokens.
    """
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
    if not any(text.shared for text in texts):
        return None, torch.zeros(len(texts), 0, dtype=torch.long, device=model.device)
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
        over: does batches elsewhere; None = here, with `model`.
    Yields:
        Indices, means and norms of each batch as it is finished, in any order.
    """
    batches = sorted_batches([(text.beginning, len(text.ids)) for text in texts], batch_size)
    todo = [[texts[i] for i in batch] for batch in batches]
    with Progress(label, len(texts), unit="texts") as progress:
        results = over(todo) if over else enumerate(_arrays(model, batch) for batch in todo)
        for index, (means, norms) in results:
            yield batches[index], means, norms
            progress.advance(len(batches[index]))


def _arrays(model: PreTrainedModel, texts: Sequence[Text]) -> tuple[Floats, Floats]:
    means, norms = capture(model, texts)
    return means.cpu().numpy(), norms.cpu().numpy()


def _worker(models: Models, slug: str) -> Callable[[Sequence[Text]], Any]:
    """What a worker elsewhere does, with a model of its own."""
    return partial(_arrays, models.load(slug).model)


def store(
    path: Path,
    models: Models,
    loaded: Loaded,
    parts: Sequence[tuple[Sequence[str], Sequence[Text]]],
    batch_size: int,
    label: str,
    metadata: Mapping[str, str] | None = None,
    norms: bool = True,
    workers: Workers = LOCAL,
) -> dict[str, str]:
    """Writes a tensor [texts, blocks, width] for each span (and norms); returns the metadata.

    Args:
        models: from which other workers load the target again.
        parts: names of spans, in order, and the texts that have them.
        metadata: further entries.
        norms: also write `<span>.norm` [texts, blocks], mean length of the span's tokens.
    """
    about = {
        "model": loaded.slug,
        "model_sha256": loaded.sha256,
        "layers": LAYERS,
        "units": "residual stream, mean over the span's tokens",
        "dtype": "float32",
        **(metadata or {}),
    }
    over = spread(workers, models.run.threads, _worker, models, loaded.slug)
    config = loaded.model.config.get_text_config()
    blocks, width = config.num_hidden_layers, config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {
        span: (len(texts), blocks, width) for spans, texts in parts for span in spans
    }
    shapes |= {f"{span}.norm": shape[:2] for span, shape in shapes.items() if norms}
    kinds = {name: (np.dtype(np.float32), shape) for name, shape in shapes.items()}
    with tensor_file(path, kinds, about) as put:
        for spans, texts in parts:
            for rows, means, lengths in captured(loaded.model, texts, batch_size, label, over):
                for i, span in enumerate(spans):
                    put(span, rows, means[:, i])
                    if norms:
                        put(f"{span}.norm", rows, lengths[:, i])
    return about
