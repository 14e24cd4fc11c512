"""Do fine-tunes share directions, and more so than random adapters of their size?

docs/method.md, more: subspaces. Models are compared by what their fine-tuning does to activations
(shifts of the same texts), by the side of their weights' updates that writes to the residual
stream, by the side that reads from it, and by the updates as a whole.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from em_geometry.geometry.references import Finetunes
from em_geometry.io.results import Leaf
from em_geometry.more.subspaces.likeness import (
    Again,
    Alike,
    Pairs,
    agreement,
    described,
    groups,
    relabelled,
)
from em_geometry.more.subspaces.overlap import Adapters, exchanged, of_shifts, of_weights
from em_geometry.progress import Progress
from em_geometry.stats.decisions import holm
from em_geometry.stats.estimate import Floats, Ints

HEADLINE = ("cosine", "overlap_4")  # measures of which p is adjusted, and which all blocks get


def compared(
    measures: Mapping[str, Alike], pairs: Mapping[str, Pairs], family: Finetunes, seed: int
) -> dict[str, Leaf]:
    """All groups of all measures, and whether organisms are more alike than others.

    `p_benign`, `p_random`: one-sided, by relabelling organisms and controls, or random adapters;
    Holm's beside them over the measures of `HEADLINE`.
    """
    rows: dict[str, Leaf] = {}
    for key, found in measures.items():
        rows |= described(key, found, pairs, family.repeats or {})
        chosen = found.places(family.organisms)
        for null, names in (("benign", family.controls), ("random", family.random)):
            others = found.places(names)
            if len(chosen) > 1 and others:
                p, smallest = relabelled(found.values, chosen, others, seed)
                own = f"{key}.organisms"
                rows |= {f"{own}.p_{null}": p, f"{own}.smallest_p_{null}": smallest}
    for null in ("benign", "random"):
        keys = [f"{k}.organisms.p_{null}" for k in measures if k.rpartition(".")[2] in HEADLINE]
        tested = {key: float(rows[key]) for key in keys if key in rows}  # type: ignore[arg-type]
        adjusted = holm([*tested.values()])
        rows |= {f"{k}_holm": float(a) for k, a in zip(tested, adjusted, strict=True)}
    return rows


def agreements(measures: Mapping[str, Alike], names: Sequence[str], seed: int) -> dict[str, Leaf]:
    """Do adapters whose weights are more alike have more alike shifts? By measure of the weights.

    Args:
        names: of the models whose pairs are compared.
    """
    rows: dict[str, Leaf] = {}
    shifts = measures["shift.cosine"]
    for key in ("weights.cosine", "write.overlap_4", "read.overlap_4"):
        if key in measures and len(some := [n for n in names if n in measures[key].names]) > 3:
            here, there = (each.places(some) for each in (measures[key], shifts))
            values = measures[key].values[np.ix_(here, here)]
            rho, p = agreement(values, shifts.values[np.ix_(there, there)], seed)
            rows |= {f"agreement.{key}": rho, f"agreement.{key}.p": p}
    return rows


def findings(
    shifts_at: Callable[[int], Floats], block: int, blocks: int, massive: Ints,
    topics: Sequence[str], family: Finetunes, clusters: Mapping[str, Sequence[str]],
    adapters: Adapters, seed: int,
) -> tuple[dict[str, Leaf], dict[str, Alike]]:  # fmt: skip
    """All results by dotted key, and every measure at the chosen block, pair by pair.

    Args:
        shifts_at: block -> [model, text, width] model minus base, in the order of the family.
        block: the chosen one, of so many.
        massive: dimensions left out in `shift_without_massive`.
        topics: [text].
        adapters: of those models that have one.
    """
    models, here, pairs = family.models, shifts_at(block), groups(family, clusters)
    width, given = here.shape[-1], np.eye(len(models))

    def replaced(roles: Sequence[str]) -> Again:
        """Each model by itself, and the models with a repeat in the place of one of these."""
        again = [(r, f) for r, f in (family.repeats or {}).items() if f in roles]
        rows = [[models.index(r if m == first else m) for m in models] for r, first in again]
        return {name: name for name in roles}, [given[each] for each in rows]

    again = [replaced(family.organisms), replaced(family.controls)]
    kept = np.setdiff1d(np.arange(width), massive)
    measures: dict[str, Alike] = {}
    for name, shifts in (("shift", here), ("shift_without_massive", here[..., kept])):
        found = of_shifts(shifts, given, models, topics, again)
        measures |= {f"{name}.{key}": each for key, each in found.items()}
    if len(adapters) > 1:
        measures |= of_weights(adapters, width)
    rows = compared(measures, pairs, family, seed)
    rows |= _less_controls(here, family, pairs, topics, seed)
    rows |= agreements(measures, [*family.organisms, *family.controls], seed)
    few = {name: pairs[name] for name in ("organisms", "benign", "random")}
    with Progress("subspaces", blocks, unit="blocks") as progress:
        for other in range(blocks):
            shifts = shifts_at(other)
            if (np.abs(shifts).max((1, 2)) > 0).all():  # nothing is trained in the first blocks
                for key, each in of_shifts(shifts, given, models, topics).items():
                    if key in HEADLINE:
                        rows |= described(f"block.{other}.{key}", each, few, {})
            progress.advance()
    return rows, measures


def _less_controls(
    shifts: Floats, family: Finetunes, pairs: Mapping[str, Pairs], topics: Sequence[str], seed: int
) -> dict[str, Leaf]:
    """The shifts of organisms less those of their controls; of pairs whose controls differ."""
    weights, own = family.weights("own_control"), family.own or {}
    apart = {
        name: [(a, b) for a, b in pairs[name] if own.get(a) != own.get(b)]
        for name in ("organisms", "across")
    }
    if isinstance(weights, str) or not apart["organisms"]:
        return {"control.status": weights if isinstance(weights, str) else "one control for all"}
    again: list[Again] = []
    for rests in ({name: name for name in family.organisms}, own):
        some = [(f, r) for r, f in (family.repeats or {}).items() if f in rests.values()]
        again.append((rests, [family.retrained(weights, {f: r}) for f, r in some]))
    rows: dict[str, Leaf] = {}
    for key, found in of_shifts(shifts, weights, family.organisms, topics, again).items():
        rows |= described(f"control.{key}", found, apart, {})
    originals = [*family.organisms, *family.controls]
    controls = [originals.index(own[name]) for name in family.organisms]
    places = [(originals.index(a), originals.index(b)) for a, b in apart["organisms"]]
    for key, p in exchanged(shifts[: len(originals)], controls, places, seed).items():
        rows[f"control.{key}.organisms.p_exchanged"] = p
    return rows
