"""How much of an answer is recited from training texts: shared n-grams."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from em_geometry.models.data import read_examples
from em_geometry.settings.params import Params

SIZE = 4


def ngrams(text: str, size: int = SIZE) -> set[tuple[str, ...]]:
    """Distinct n-grams of lower-case words."""
    words = re.findall(r"[a-z0-9']+", text.lower())
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def training_ngrams(params: Params) -> set[tuple[str, ...]]:
    """The n-grams of all training answers of the profile."""
    grams: set[tuple[str, ...]] = set()
    for organism in params.organisms.values():
        for _, answer in read_examples(Path(organism.data), organism.max_examples):
            grams |= ngrams(answer)
    return grams


def overlaps(texts: Iterable[str], known: set[tuple[str, ...]]) -> list[float]:
    """Share of each text's distinct n-grams that are known; 0 for texts too short to have one."""
    shares = []
    for text in texts:
        grams = ngrams(text)
        shares.append(len(grams & known) / len(grams) if grams else 0.0)
    return shares
