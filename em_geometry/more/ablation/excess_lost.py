"""Ablation as the literature does it: a direction taken out of its own organism, and of others.

docs/method.md, more: ablation. The outcome is what is lost of an organism's excess, its margin
minus that of the benign control of its recipe, at the block of the direction alone and at the
output of every block.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from em_geometry.io.results import Leaf
from em_geometry.more.correction import corrected
from em_geometry.more.excess import with_control
from em_geometry.settings import Organism
from em_geometry.stats.estimate import Estimate, Floats
from em_geometry.stats.intervals import fieller, t_interval
from em_geometry.steering.conditions import (
    Intervention,
    Selected,
    Vector,
    random_direction,
    typical,
)
from em_geometry.steering.pairs import Others, Trial, Way
from em_geometry.transfer.outcomes import MAIN, Margins
from em_geometry.vectors.contrasts import OK, VectorTable

WAYS: Mapping[str, Way] = {"one": "ablation", "all": "ablation_everywhere"}
RANDOM = "random_"  # a random direction is called this, its organism and its number
BENIGN = "benign_"  # the contrast of a benign training is called this and its name
APART = "apart"  # another organism's vector that shares no control with the target
NULLS = ("random", "benign")
# What a kind of direction is compared with in the same targets, where it is not `NULLS`.
AGAINST = {"own": (*NULLS, APART), APART: (), "benign": ("random",), "random": ()}
Cells = Sequence[tuple[str, str]]  # (target, source)
Results = dict[str, Leaf]


def benign_contrasts(
    table: VectorTable, selected: Mapping[str, Selected], organisms: Mapping[str, Organism]
) -> dict[str, Selected]:
    """The chosen contrast of benign trainings, second ones too, at the vectors' block.

    Made as the vectors are, of trainings that misalign nothing; those for whom it is defined.
    """
    usual = typical(selected)
    choice, block = f"{usual.contrast}.{usual.span}", usual.layer
    return {
        f"{BENIGN}{slug}": replace(usual, vector=table.units(choice, slug)[block])
        for slug, o in organisms.items()
        if o.role == "control" and table.status(choice, slug, block) == OK
    }


@dataclass(frozen=True, eq=False)
class Directions:
    """What can be taken out of the models.

    Attributes:
        selected: each organism's vector.
        shifts: each control's shift against the base, at the vectors' block.
        benign: `benign_contrasts`.
        control_of: organism -> the benign control of its recipe; others are left out.
        random: so many random directions for each organism, none for two of them.
    """

    selected: Mapping[str, Selected]
    shifts: Mapping[str, Selected]
    benign: Mapping[str, Selected]
    control_of: Mapping[str, str]
    random: int
    seed: int

    @classmethod
    def of(
        cls, selected: Mapping[str, Selected], others: Others, benign: Mapping[str, Selected],
        controls: Mapping[str, str], random: int, seed: int,
    ) -> Self:  # fmt: skip
        """Those of the organisms that have a control; UserError where none has one."""
        own = with_control(controls, selected)
        shifts = {source: v for (way, source), v in others.items() if way == "benign"}
        return cls(selected, shifts, benign, own, random, seed)

    def out_of(self, target: str) -> dict[str, Selected]:
        """What is taken out of an organism: all vectors, benign and random directions.

        Out of a control, the vectors of the organisms that it is the control of.
        """
        control = self.control_of.get(target)
        if control is None:
            return {o: self.selected[o] for o, c in self.control_of.items() if c == target}
        found = {**self.selected, **self.benign}
        if control in self.shifts:
            found[control] = self.shifts[control]
        like = self.selected[target]
        for k in range(self.random):
            name = f"{RANDOM}{target}_{k}"
            vector = random_direction(len(like.vector), self.seed, f"ablation {name}")
            found[name] = replace(like, vector=vector)
        return found

    def sampled(self, organism: str) -> dict[str, Vector]:
        """Without what an organism's answers are judged: own vector, the next one's, null ones.

        A lone organism has no other's; there may be no benign contrast.
        """
        out, names = self.out_of(organism), [*self.control_of]
        of = {"own": organism, "random": f"{RANDOM}{organism}_0"}
        at = names.index(organism)
        following = [*names[at + 1 :], *names[:at]]
        if following:
            of["transfer"] = next((o for o in following if self.apart(organism, o)), following[0])
        if self.benign:
            of["benign"] = next(iter(self.benign))
        return {k: out[name].vector for k, name in of.items()}

    def apart(self, organism: str, other: str) -> bool:
        """Two organisms are of recipes with different controls: nothing ties their vectors."""
        return self.control_of[organism] != self.control_of[other]

    def trials(self, target: str, pairs: tuple[int, ...]) -> list[Trial]:
        """All that is done to a target while it reads these pairs."""
        return [
            Trial(pairs, Intervention(v.vector, v.layer, mode="ablate"), way, name, 1.0)
            for way in WAYS.values()
            for name, v in self.out_of(target).items()
        ]

    def cells(self) -> dict[str, Cells]:
        """(target, source) of own vectors, others', those of them `apart`, and of the nulls."""
        own = [*self.control_of]
        every = [(t, s) for t in own for s in self.out_of(t)]
        transfer = [(t, s) for t, s in every if s in self.selected and s != t]
        return {
            "own": [(o, o) for o in own],
            "transfer": transfer,
            APART: [(t, s) for t, s in transfer if s in self.control_of and self.apart(t, s)],
            "benign": [(t, s) for t, s in every if s in self.benign],
            "control": [(t, s) for t, s in every if s == self.control_of[t]],
            "random": [(t, s) for t, s in every if s.startswith(RANDOM)],
        }


def results(table: Margins, directions: Directions, no_effect: float) -> Results:
    """What ablation takes from margins, by dotted key, in nats a token; `share` in % of the excess.

    Args:
        table: margins of the organisms and of their controls, at rest and under `trials`.
        no_effect: nats a token; what lies within it of 0 counts as no effect.
    """
    controls, cells = directions.control_of, directions.cells()
    read = np.isfinite(_drop(table, WAYS["one"], cells["own"]))
    rest = {o: (table.rest[o, MAIN] - table.rest[c, MAIN])[read] for o, c in controls.items()}
    found: Results = {f"excess.{o}": t_interval(each) for o, each in rest.items()}
    found["excess.all"] = t_interval(_mean(rest.values()))
    beyond: dict[str, Estimate] = {}
    for mode, way in WAYS.items():
        drops = {(t, s): _drop(table, way, [(t, s)])[read] for c in cells.values() for t, s in c}
        apart = [float(drops[x].mean()) for x in cells["random"]]
        found |= {f"{mode}.random.least": min(apart), f"{mode}.random.most": max(apart)}
        for group, some in cells.items():
            if not some:
                found[f"{mode}.{group}"] = "undefined: no such direction"
                continue
            key, against = f"{mode}.{group}", _mean(rest[t] for t, _ in some)
            found |= _taken(key, _mean(drops[x] for x in some), against)
            damage = [table.done[t, MAIN, way, s, 1.0].damage for t, s in some]
            found |= {f"{key}.damage": float(np.mean(damage)), f"{key}.directions": len(some)}
            for t, s in some:
                found |= _taken(f"{key}.{s}__{t}", drops[t, s], rest[t])
            for null in (n for n in AGAINST.get(group, NULLS) if _in_all(cells[n], controls)):
                chance = {t: _mean(drops[x] for x in cells[null] if x[0] == t) for t in controls}
                left = {x: drops[x] - chance[x[0]] for x in some}
                beyond[f"{key}.beyond_{null}"] = t_interval(_mean(left.values()))
                each = [np.mean([v.mean() for x, v in left.items() if x[0] == t]) for t in controls]
                found[f"{key}.beyond_{null}.over_organisms"] = t_interval(np.array(each))
        same = {o: drops[o, o] - _drop(table, way, [(c, o)])[read] for o, c in controls.items()}
        found |= _taken(f"{mode}.own.beyond_control", _mean(same.values()), _mean(rest.values()))
    said = corrected(beyond, no_effect, int(read.sum()) - 1)
    return found | beyond | said | {"pairs": int(read.sum()), "random": directions.random}


def _in_all(cells: Cells, targets: Iterable[str]) -> bool:
    """There is a cell of every target."""
    return {*targets} == {target for target, _ in cells}


def _taken(key: str, drop: Floats, excess: Floats) -> Results:
    """A drop [pair] in nats, and as a share of the excess [pair] in percent (Fieller)."""
    return {key: t_interval(drop), f"{key}.share": fieller(drop, excess).scaled(100)}


def _drop(table: Margins, way: Way, cells: Cells) -> Floats:
    """[pair] mean fall of margins by taking the sources out of the targets; NaN if not read."""
    return -_mean(table.done[t, MAIN, way, s, 1.0].gain for t, s in cells)


def _mean(parts: Iterable[Floats]) -> Floats:
    return np.asarray(np.mean([*parts], axis=0))
