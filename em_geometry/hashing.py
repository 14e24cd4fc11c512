"""Stable hashes: of files, of JSON-able values, of tensors. Keys of journals rest on them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def value_sha256(value: Any) -> str:
    """SHA-256 of a JSON-able value, independent of the order of dictionary keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def stream_key(seed: int, *parts: Any) -> int:
    """128-bit key of a random stream (numpy Philox) named by `parts`.

    Each response, bootstrap and null has its own: order and batches of the work do not matter.
    """
    return int(value_sha256([seed, *parts])[:32], 16)


def stream(seed: int, *parts: Any) -> np.random.Generator:
    """The random stream named by `parts`, whatever is drawn elsewhere."""
    from numpy.random import Generator, Philox

    return Generator(Philox(key=stream_key(seed, *parts)))
