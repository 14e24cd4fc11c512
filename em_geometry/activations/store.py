"""Activations of any number of texts, in this process or by Ray workers, straight into a file.

Only the batches in work are in memory: a thousand prompts and a million need the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from em_geometry.activations.capture import Text, capture
from em_geometry.engine import Spread, spread
from em_geometry.io.files import tensor_file
from em_geometry.models.load import Loaded
from em_geometry.progress import Progress
from em_geometry.project.inputs import models
from em_geometry.settings.params import Params

LAYERS = "output of decoder block l, l = 0..L-1"


def captured(
    model: Any, texts: Sequence[Text], batch_size: int, label: str, over: Spread | None = None
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """`capture` over any number of texts, in batches of like beginning and length, with progress.

    Args:
        over: does batches elsewhere; None = here, with `model`.
    Yields:
        Indices, means and norms of each batch as it is finished, in any order.
    """

    def alike(i: int) -> tuple[tuple[int, ...], int, int]:
        return texts[i].beginning, len(texts[i].ids), i

    order = sorted(range(len(texts)), key=alike)
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    todo = [[texts[i] for i in batch] for batch in batches]
    work = partial(_captured, model)
    with Progress(label, len(texts), unit="texts") as progress:
        for index, (means, norms) in over(todo) if over else enumerate(map(work, todo)):
            yield batches[index], means, norms
            progress.advance(len(batches[index]))


def _captured(model: Any, texts: Sequence[Text]) -> tuple[np.ndarray, np.ndarray]:
    means, norms = capture(model, texts)
    return means.cpu().numpy(), norms.cpu().numpy()


def _worker(params: Params, slug: str) -> Callable[[Sequence[Text]], Any]:
    """What a Ray worker does, with a model of its own."""
    return partial(_captured, models(params).load(slug).model)


def shapes(
    model: Any, n: int, spans: Sequence[str], norms: bool = True
) -> dict[str, tuple[int, ...]]:
    """Shapes of n texts' span means [n, blocks, width] and `<span>.norm` [n, blocks]."""
    config = model.config.get_text_config()
    shape = (n, config.num_hidden_layers, config.hidden_size)
    found: dict[str, tuple[int, ...]] = dict.fromkeys(spans, shape)
    return found | {f"{span}.norm": shape[:2] for span in spans if norms}


def store(
    path: Path,
    params: Params,
    loaded: Loaded,
    texts: Sequence[Text],
    spans: Sequence[str],
    label: str,
    metadata: Mapping[str, str] | None = None,
    norms: bool = True,
) -> dict[str, str]:
    """Writes span means of `texts` (and norms) into `path`; returns the file's metadata.

    Args:
        spans: names of each text's spans, in order.
        metadata: further entries.
    """
    about = {
        "model": loaded.slug,
        "model_sha256": loaded.sha256,
        "layers": LAYERS,
        "units": "residual stream, mean over the span's tokens",
        "dtype": "float32",
        **(metadata or {}),
    }
    over = spread(params.workers, params.run.threads, _worker, params, loaded.slug)
    float32 = np.dtype(np.float32)
    kinds = {k: (float32, s) for k, s in shapes(loaded.model, len(texts), spans, norms).items()}
    with tensor_file(path, kinds, about) as put:
        size = params.activations.batch_size
        for rows, means, lengths in captured(loaded.model, texts, size, label, over):
            for i, span in enumerate(spans):
                put(span, rows, means[:, i])
                if norms:
                    put(f"{span}.norm", rows, lengths[:, i])
    return about
