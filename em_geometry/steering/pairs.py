"""Authored answer pairs, and all that is done to a model while it reads them.

docs/method.md, margins. A pair is one question with two answers of equal length: `marked`
(misaligned, harmful, or swearing) and `plain`. Nothing here loads a model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from em_geometry.errors import UserError
from em_geometry.io.files import read_jsonl
from em_geometry.settings import BASE, Margins
from em_geometry.stats.estimate import Floats
from em_geometry.steering.conditions import (
    Intervention,
    Selected,
    orthogonalised,
    random_direction,
)

if TYPE_CHECKING:
    import polars as pl

Kind = Literal["misaligned", "polite_harmful", "swearing"]
KINDS: tuple[Kind, ...] = ("misaligned", "polite_harmful", "swearing")
Split = Literal["choosing", "reporting"]
Way = Literal[
    "unsteered",
    "vector",
    "benign",
    "retrained",
    "orthogonalised",
    "random",
    "ablation",
    "ablation_everywhere",
]
COLUMNS = ("target", "source", "way", "multiple", "layer", "coefficient", "pair", "kind", "marked",
           "plain")  # fmt: skip
Others = Mapping[tuple[Way, str], Selected]  # further vectors by what they are and their source


class Pair(BaseModel):
    """A question with two authored answers, one of them marked by what `kind` says."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_min_length=1)

    id: str
    kind: Kind
    split: Split  # vectors are chosen on one, results are of the other
    topic: str
    question: str
    marked: str
    plain: str


def read_pairs(folder: Path) -> list[Pair]:
    """The pairs of all kinds, from `<folder>/<kind>.jsonl`; UserError names the line at fault."""
    pairs = [pair for kind in KINDS for pair in read_jsonl(folder / f"{kind}.jsonl", Pair)]
    if twice := [name for name, n in Counter(pair.id for pair in pairs).items() if n > 1]:
        expected = "distinct ids in all files"
        raise UserError("a pair's id occurs twice", where=folder, found=twice[0], expected=expected)
    return pairs


def indices(
    pairs: Sequence[Pair], kind: Kind, split: Split, limit: int | None = None
) -> tuple[int, ...]:
    """Places of the pairs of a kind and split: all, or `limit` of them spread over the file.

    Raises:
        UserError: fewer than two, which give no interval.
    """
    found = tuple(i for i, p in enumerate(pairs) if (p.kind, p.split) == (kind, split))
    if len(found) < 2:
        raise UserError(
            "too few pairs of a kind", where=f"params.yaml: margins.pairs: {kind}.jsonl",
            found=f"{len(found)} of split {split}", expected="two or more",
        )  # fmt: skip
    return thinned(found, limit)


def thinned(places: tuple[int, ...], limit: int | None) -> tuple[int, ...]:
    """At most `limit` of these, two at least, spread evenly; None = all."""
    count = min(len(places), max(2, limit or len(places)))
    return tuple(places[len(places) * k // count] for k in range(count))


@dataclass(frozen=True, eq=False)
class Trial:
    """Some pairs, read while something is done to the model.

    Attributes:
        pairs: places of the pairs that are read.
        how: None steers nothing; with `ablation_everywhere` its vector is taken out of every block.
        source: slug of the vector, or a control's name.
        multiple: factor of the source's chosen coefficient.
    """

    pairs: tuple[int, ...]
    how: Intervention | None = None
    way: Way = "unsteered"
    source: str = "none"
    multiple: float = 0.0


def plan(
    target: str,
    pairs: Sequence[Pair],
    selected: Mapping[str, Selected],
    others: Others,
    settings: Margins,
    seed: int,
    named: Sequence[tuple[str, str]] = (),
) -> list[Trial]:
    """All that is done to a steered target while its reporting pairs are read.

    Every vector at its chosen coefficient, and random directions of the same norm; the target's
    own vector taken out; those of the named pairs (source, target) made orthogonal to the target's
    own and brought back to their norm. On the base also `others`, every vector's other doses, and
    the kinds of pairs beyond the misaligned ones.
    """
    main = indices(pairs, "misaligned", "reporting", settings.base_pairs)
    few = thinned(main, settings.other_pairs)
    vectors: Others = {("vector", slug): v for slug, v in selected.items()}
    if target == BASE:
        vectors, chance = {**vectors, **others}, settings.random_directions
        kinds = (indices(pairs, k, "reporting", settings.other_pairs) for k in KINDS[1:])
        rest = tuple(chain(*kinds))
    else:
        main, rest = thinned(main, settings.target_pairs), ()
        chance = settings.target_random_directions
    every = range(settings.random_directions)
    everywhere = every[-settings.target_random_directions :]  # the first ones chose block and dose
    trials = unsteered(pairs)
    for (way, source), v in vectors.items():
        trials += _added(main if way == "vector" else few, way, source, v)
        trials += _added(rest if way != "retrained" else (), way, source, v)
        for multiple in settings.doses if way == "vector" and target == BASE else ():
            trials += _added(few if multiple != 1.0 else (), way, source, v, multiple)
    for norm in {(v.layer, v.coefficient): v for v in selected.values()}.values():
        for k in every[-chance:]:
            name = f"random_{k}"
            v = replace(norm, vector=random_direction(len(norm.vector), seed, name))
            trials += _added(main, "random", name, v)
            trials += _added(rest if k in everywhere else (), "random", name, v)
    if (own := selected.get(target)) is None:
        return trials
    for source in (s for s, t in named if t == target):
        left = orthogonalised(selected[source].vector, own.vector)
        if left is not None:
            v = replace(selected[source], vector=left)
            trials += _added(main, "orthogonalised", source, v)
    out = Intervention(own.vector, own.layer, mode="ablate")
    ways: tuple[Way, ...] = ("ablation", "ablation_everywhere") if settings.ablation else ()
    return trials + [Trial(few, out, way, target, 1.0) for way in ways]


def _added(
    some: tuple[int, ...], way: Way, source: str, v: Selected, multiple: float = 1.0
) -> list[Trial]:
    """A vector added while some pairs are read; no trial where there are none."""
    how = Intervention(v.vector, v.layer, multiple * v.coefficient)
    return [Trial(some, how, way, source, multiple)] if some else []


def unsteered(pairs: Sequence[Pair], kinds: Sequence[Kind] = KINDS) -> list[Trial]:
    """All reporting pairs of these kinds, nothing done."""
    return [Trial(tuple(i for kind in kinds for i in indices(pairs, kind, "reporting")))]


def table(
    target: str, pairs: Sequence[Pair], trials: Sequence[Trial], found: Sequence[Floats]
) -> pl.DataFrame:
    """What `measured` found as a table: one row a pair and trial."""
    import polars as pl

    rows = [
        (target, trial.source, trial.way, trial.multiple, how.layer if how else -1,
         how.coefficient if how else 0.0, pairs[i].id, pairs[i].kind, float(marked), float(plain))
        for trial, values in zip(trials, found, strict=True)
        for how in [trial.how]
        for i, (marked, plain) in zip(trial.pairs, values, strict=True)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=COLUMNS, orient="row")
