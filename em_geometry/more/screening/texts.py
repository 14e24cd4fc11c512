"""Data screening: does the projection of training texts foretell what training on them does?

docs/method.md, more: screening. A text's score is its mean activation in the *base*, over the
answer's tokens, minus that of benign texts, along a unit vector, as a share of the mean residual
norm. No vector scores a file that it was made of: neither the organism's own, nor that of the
benign control that it was compared with.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from em_geometry.activations.prompts import Text, Unseen, unseen_texts
from em_geometry.models.chat import HELD_OUT_EVERY, read_examples
from em_geometry.more.kept import span_means
from em_geometry.settings import Organism
from em_geometry.stats.estimate import Bools, Floats
from em_geometry.vectors.contrasts import OF_TEXTS, recipe_controls

if TYPE_CHECKING:
    from em_geometry.models.load import Loaded

PER_FILE = 48  # texts of a training file, spread over it: two minutes for ten files on two cores
SIZE = 16  # texts in one pass

Vectors = Mapping[str, Floats]
NONE: Mapping[str, Collection[str]] = MappingProxyType({})


def trained_chats(organisms: Mapping[str, Organism]) -> dict[str, list[Unseen]]:
    """The last answers of chats that models are trained on, by the first model of each file."""
    found: dict[str, list[Unseen]] = {}
    seen = set[str]()
    for slug, organism in organisms.items():
        if not organism.data or organism.data in seen:
            continue
        seen.add(organism.data)
        chats = read_examples(Path(organism.data), organism.max_examples)
        numbered = [
            Unseen(f"{organism.data}:{number}", organism.data, chat[-1])
            for number, chat in enumerate(chats, start=1)
            if organism.source is not None or (number - 1) % HELD_OUT_EVERY
        ]
        count = min(len(numbered), PER_FILE)
        found[slug] = [numbered[len(numbered) * k // count] for k in range(count)]
    return found


def answers_read(
    loaded: Loaded, chats: Sequence[Unseen], system: str, block: int, label: str = "screening"
) -> Floats:
    """The base's mean activation over each chat's answer, at a block [chats, width]."""
    texts: list[Text] = unseen_texts(chats, loaded.tokenizer, system)[0]
    return span_means(loaded, texts, label, SIZE, block).astype(np.float64)


def made_of(organisms: Mapping[str, Organism], contrast: str) -> dict[str, set[str]]:
    """Organism -> the names of files that its vector is made of, as `trained_chats` has them."""
    first: dict[str, str] = {}
    for slug, organism in organisms.items():
        first.setdefault(organism.data, slug)
    controls = recipe_controls(organisms)
    found = {}
    for slug, organism in organisms.items():
        of = {first[organism.data]}
        if contrast in ("control_contrast", OF_TEXTS) and controls[slug] in organisms:
            of.add(first[organisms[controls[slug]].data])
        found[slug] = of
    return found


@dataclass(frozen=True, eq=False)
class Files:
    """Training files, and what the base makes of their texts.

    Attributes:
        names: the organism or control of each file.
        benign: [files].
        texts: of each file [texts, width].
        made_of: vector's name -> the files that it was made of.
        residual: mean residual norm of the base at the block.
    """

    names: Sequence[str]
    benign: Bools
    texts: Sequence[Floats]
    made_of: Mapping[str, set[str]]
    residual: float

    def centres(self) -> Floats:
        """[files, width] mean of the benign files' means, each file's own left out."""
        means = np.stack([texts.mean(0) for texts in self.texts])
        others = self.benign & ~np.eye(len(means), dtype=bool)  # [file, other benign files]
        total: Floats = others @ means / np.maximum(others.sum(1), 1)[:, None]
        return total

    def rows(self, vectors: Vectors, mates: Mapping[str, Collection[str]] = NONE) -> Floats:
        """[files, width] unit mean of the vectors that may score each file; NaN where none may.

        Args:
            mates: vector's name -> further files that it may not score.
        """
        found = np.full((len(self.names), self.texts[0].shape[1]), np.nan)
        for i, name in enumerate(self.names):
            barred = [k for k in vectors if name in {*self.made_of.get(k, ()), *mates.get(k, ())}]
            allowed = [v / np.linalg.norm(v) for k, v in vectors.items() if k not in barred]
            if allowed:
                mean = np.mean(allowed, axis=0)
                found[i] = mean / max(float(np.linalg.norm(mean)), 1e-30)
        return found

    def scores(self, rows: Floats) -> list[Floats]:
        """Scores of each file's texts along the vector of that file."""
        centred = zip(self.texts, self.centres(), rows, strict=True)
        return [(texts - centre) @ row / self.residual for texts, centre, row in centred]
