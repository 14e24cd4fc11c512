"""The published cosines: nine known to rounding, six inferred (data/paper/cosines.json)."""

from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from em_geometry.errors import UserError
from em_geometry.hashing import stream
from em_geometry.io.files import read_json
from em_geometry.stats.estimate import Floats

RESTORE = "git checkout {} brings the published data back"
INTERIOR = 200  # draws inside the box of roundings, beside its corners
STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

Cosine = Annotated[float, Field(ge=-1, le=1)]


class Entry(BaseModel):
    """One cosine."""

    model_config = STRICT

    pair: tuple[str, str]  # in the order of `PublishedGram.names`
    source: Literal["printed cosine", "printed angle", "inferred"]
    printed: float | None
    value: Cosine  # the printed one (or that of the printed angle); the fitted one where inferred
    low: Cosine  # low and high: of the printed number's rounding; of the family where inferred
    high: Cosine
    fitted: Cosine  # of the member of the family that stands for it
    possible: tuple[Cosine, Cosine] | None = None  # without a fit, where inferred


class PublishedGram(BaseModel):
    """The six vectors of the paper as far as its numbers determine them."""

    model_config = STRICT

    about: str
    names: tuple[str, ...]
    clusters: dict[str, list[str]]
    entries: tuple[Entry, ...]

    def entry(self, a: str, b: str) -> Entry:
        """The entry of two names in either order."""
        return {frozenset(e.pair): e for e in self.entries}[frozenset((a, b))]

    def fitted(self) -> Floats:
        """Cosines [6, 6] of the representative member of the fitted family."""
        return symmetric(len(self.names), np.array([e.fitted for e in self.entries]))

    def clusters_of(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Clusters restricted to `names`; empty ones are left out."""
        kept = {c: [m for m in members if m in names] for c, members in self.clusters.items()}
        return {c: members for c, members in kept.items() if members}

    def roundings(self, names: Sequence[str]) -> Floats:
        """Cosines [1 + m, k, k] of k names that the printed numbers allow; the first as printed.

        Corners of the box of roundings, and draws from its inside.

        Raises:
            UserError: a cosine among the names is not printed.
        """
        entries = [self.entry(a, b) for a, b in combinations(names, 2)]
        for entry in entries:
            if entry.source == "inferred":
                raise UserError(
                    "a cosine is not printed",
                    where="the published cosines",
                    found=", ".join(entry.pair),
                    expected="names whose cosines are all printed",
                )
        value, low, high = np.array([(e.value, e.low, e.high) for e in entries]).T
        corners = np.array(list(product((0.0, 1.0), repeat=len(entries))))
        inside = stream(0, "roundings", *names).random((INTERIOR, len(entries)))
        box = low + np.concatenate([corners, inside]) * (high - low)
        return symmetric(len(names), np.concatenate([value[None], box]))


def symmetric(n: int, values: Floats) -> Floats:
    """Matrices [..., n, n] with unit diagonal from the entries above it, row by row."""
    matrix = np.broadcast_to(np.eye(n), (*values.shape[:-1], n, n)).copy()
    rows, columns = np.triu_indices(n, 1)
    matrix[..., rows, columns] = matrix[..., columns, rows] = values
    return matrix


def read_published_gram(path: Path) -> PublishedGram:
    """Reads and checks the published cosines; UserError names the entry at fault."""
    gram = read_json(path, PublishedGram, RESTORE.format(path))
    problem, about = None, ", ".join(gram.names)
    if [e.pair for e in gram.entries] != list(combinations(gram.names, 2)):
        problem = "entries must be all pairs of names, row by row"
    elif sorted(m for c in gram.clusters.values() for m in c) != sorted(gram.names):
        problem = "clusters must hold every name once"
    for e in gram.entries:
        if not (e.low <= e.fitted <= e.high and e.low <= e.value <= e.high):
            problem = f"{e.pair}: value and fitted must lie between low and high"
            about = f"{e.low}, {e.value}, {e.fitted}, {e.high}"
    if problem is not None:
        raise UserError(problem, where=str(path), found=about, hint=RESTORE.format(path))
    return gram


class Family(BaseModel):
    """Members of the fitted family, each the cosines of all pairs as in `PublishedGram.entries`."""

    members: list[Annotated[list[Cosine], Field(min_length=15, max_length=15)]]


def read_family(gram: PublishedGram, path: Path) -> Floats:
    """Members [m, 6, 6] of the fitted family; the representative is the first."""
    members = read_json(path, Family, RESTORE.format(path)).members
    return np.concatenate([gram.fitted()[None], symmetric(len(gram.names), np.array(members))])
