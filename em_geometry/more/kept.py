"""Mean activations of texts, read once and kept in a journal.

Other experiments and commands that want the same texts find them there.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from em_geometry.activations.capture import capture
from em_geometry.activations.prompts import Text
from em_geometry.hashing import value_sha256
from em_geometry.io.journal import Journal
from em_geometry.models.chat import sorted_batches

if TYPE_CHECKING:
    from em_geometry.models.load import Loaded

CODE = 1  # raise when the way a text is read changes

Means: TypeAlias = npt.NDArray[np.float32]


def span_means(
    loaded: Loaded, texts: Sequence[Text], label: str, size: int, block: int | None = None
) -> Means:
    """Mean over the first span of each text [texts, blocks, width]; of one block [texts, width].

    Args:
        label: name of the journal and of the progress bar.
        size: texts in one pass.
        block: the only one that is kept; None = all.
    """
    batches = sorted_batches([(text.beginning, len(text.ids)) for text in texts], size)

    def key(text: Text) -> str:
        return value_sha256([CODE, loaded.sha256, text.ids, text.spans[0], block])

    def work(batch: Sequence[Text]) -> list[str]:
        means = capture(loaded.model, batch)[0][:, 0].cpu().numpy()  # [texts, blocks, width]
        return [as_text(each if block is None else each[block]) for each in means]

    with Journal(label.replace(" ", "-")) as journal:
        done = journal.fill(label, [[texts[i] for i in batch] for batch in batches], key, work)
    config = loaded.model.config.get_text_config()
    shape = (config.num_hidden_layers, config.hidden_size)[block is not None :]
    return np.stack([from_text(done[key(text)], shape) for text in texts])


def as_text(values: npt.NDArray[np.floating]) -> str:
    """Float32 values as text, to the last bit and a third as long as numbers in JSON."""
    return base64.b64encode(values.astype(np.float32).tobytes()).decode()


def from_text(text: str, shape: tuple[int, ...]) -> Means:
    """What `as_text` has written."""
    return np.frombuffer(base64.b64decode(text), np.float32).reshape(shape)
