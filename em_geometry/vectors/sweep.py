"""Which block and dose the steering vectors get, by margins (docs/method.md: layer_sweep).

The *base* is steered by unit vectors at every block and dose of a grid, and reads the pairs that
choose. A vector's gain is what it adds to the margin of misaligned over aligned answers beyond the
mean of random directions of the same norm. All that is tried stands in the table: no choice is
hidden in a param.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, TypeAlias

import numpy as np

from em_geometry.errors import UserError
from em_geometry.io.results import Leaf, spelt
from em_geometry.settings import LayerSweep, Organism, Vectors
from em_geometry.stats.estimate import Floats
from em_geometry.stats.intervals import t_interval
from em_geometry.steering.conditions import Intervention, Selected, typical
from em_geometry.steering.pairs import Way
from em_geometry.vectors.contrasts import OK, Array, VectorTable, recipe_controls

Rule: TypeAlias = Literal["common", "per_model"] | int  # `vectors.layer`
Cell: TypeAlias = tuple[int, float]  # block and relative dose
# interventions -> log-probabilities [interventions, pairs, (marked, plain)]
Read: TypeAlias = Callable[[Sequence[Intervention | None]], Floats]


@dataclass(frozen=True)
class Choice:
    """Block and dose of one organism, and why these where it is not plain."""

    layer: int
    dose: float
    status: str = OK


@dataclass(frozen=True, eq=False)
class Tried:
    """What vectors do to the base's margins, in nats a token.

    Attributes:
        gain: [cell, vector, pair] beyond the mean of the random directions.
        random: [cell, direction] mean gain of the random directions themselves.
        damage: [cell, vector] fall of the mean log-probability of both answers.
    """

    names: Sequence[str]
    cells: Sequence[Cell]
    gain: Floats
    random: Floats
    damage: Floats


def candidates(
    table: VectorTable, choice: str, organisms: Sequence[str], layers: Sequence[int]
) -> dict[str, Array]:
    """Unit vectors [block, width] of the organisms; UserError where one has none at a block."""
    if choice not in table.raw:
        raise UserError(
            "no vectors of this contrast and span",
            where="params.yaml: vectors",
            found=choice,
            expected="one of " + ", ".join(sorted(table.raw)),
        )
    for slug, layer in product(organisms, layers):
        if (status := table.status(choice, slug, layer)) != OK:
            raise UserError(
                "this organism has no steering vector under the chosen contrast",
                where=f"params.yaml: vectors.contrast, layer_sweep.layers: {slug}, block {layer}",
                found=status,
                hint="choose another contrast, or blocks from the first that was trained on",
            )
    return {slug: table.units(choice, slug) for slug in organisms}


def tried(
    read: Read,
    units: Mapping[str, Array],
    chance: Array,
    cells: Sequence[Cell],
    residual: Floats,
) -> Tried:
    """Adds every vector to the base in every cell.

    Args:
        units: unit vectors [block, width] by name.
        chance: unit vectors [directions, width], the random ones.
        residual: [block] mean norm of the base's residual stream.
    """
    plan = [
        Intervention(vector, block, dose * float(residual[block]))
        for block, dose in cells
        for vector in [*(unit[block] for unit in units.values()), *chance]
    ]
    found = read([None, *plan])
    change = (found[1:] - found[0]).reshape(len(cells), -1, *found.shape[1:])
    gain, count = change[..., 0] - change[..., 1], len(units)
    random = gain[:, count:]
    beyond = gain[:, :count] - random.mean(1, keepdims=True)
    damage = -change[:, :count].mean((-1, -2))
    return Tried([*units], list(cells), beyond, random.mean(-1), damage)


def cells_of(settings: LayerSweep, rule: Rule) -> list[Cell]:
    """Blocks by doses of the grid; with a block that the params name, if it is not in the grid."""
    named = {rule} if isinstance(rule, int) else set()
    if not settings.layers:
        where, expected = "params.yaml: layer_sweep.layers", "one or more"
        raise UserError("no blocks to try", where=where, found="[]", expected=expected)
    return list(product(sorted({*settings.layers} | named), sorted(settings.doses)))


def choose(found: Tried, rule: Rule, max_damage: float) -> dict[str, Choice]:
    """Block and dose by organism: the cell with the largest mean gain.

    A cell counts where the damage is at most `max_damage`; where it is nowhere so, the cell with
    the least damage is taken. `common` and a given block take the mean over the organisms.
    """
    gain, damage = found.gain.mean(-1), found.damage
    if rule != "per_model":
        gain, damage = (np.broadcast_to(x.mean(1)[:, None], x.shape) for x in (gain, damage))
    wanted = np.array([rule in ("common", "per_model", block) for block, _ in found.cells])
    chosen = {}
    for i, slug in enumerate(found.names):
        allowed = wanted & (damage[:, i] <= max_damage)
        if allowed.any():
            best, why = int(np.where(allowed, gain[:, i], -np.inf).argmax()), OK
        else:
            best = int(np.where(wanted, damage[:, i], np.inf).argmin())
            why = f"every dose costs more than {max_damage:g} nats a token; the least taken"
        chosen[slug] = Choice(*found.cells[best], why)
    return chosen


def selected_of(
    table: VectorTable, units: Mapping[str, Array], chosen: Mapping[str, Choice], how: Vectors
) -> dict[str, Selected]:
    """The chosen vectors with their coefficients."""
    norms, found = table.norms[f"{how.contrast}.{how.span}"], {}
    for slug, c in chosen.items():
        size = float(c.dose * table.residual[c.layer])
        norm = float(norms[table.models.index(slug), c.layer])
        vector = units[slug][c.layer].astype(np.float32)
        found[slug] = Selected(vector, c.layer, c.dose, size, norm, how.contrast, how.span)
    return found


def other_vectors(
    table: VectorTable,
    selected: Mapping[str, Selected],
    organisms: Mapping[str, Organism],
    repeats: Mapping[str, str],
) -> dict[tuple[Way, str], Selected]:
    """Vectors to compare the chosen ones with, by what they are and their source.

    `benign`: a control minus the base on the same span, at the median coefficient. `retrained`: an
    organism's vector from a repeat of itself or of its control; the source is `organism@repeat`.
    """
    usual = typical(selected)
    choice, shift = f"{usual.contrast}.{usual.span}", f"model_contrast.{usual.span}"
    found: dict[tuple[Way, str], Selected] = {}

    def add(way: Way, source: str, raw: Array, like: Selected) -> None:
        norm = float(np.linalg.norm(raw.astype(np.float64)))
        if norm > 0:
            unit = (raw / norm).astype(np.float32)
            found[way, source] = Selected(unit, like.layer, like.dose, like.coefficient, norm,
                                          usual.contrast, usual.span)  # fmt: skip

    def raw(choice: str, model: str, block: int) -> Floats:
        row: Floats = table.at(choice, {model: block})[0]
        return row

    for slug, organism in organisms.items() if shift in table.raw else ():
        if organism.role == "control" and slug not in repeats:
            add("benign", slug, raw(shift, slug, usual.layer), usual)
    controls = recipe_controls(organisms)
    for repeat, original in repeats.items():
        if original in selected:
            v = selected[original]
            add("retrained", f"{original}@{repeat}", raw(choice, repeat, v.layer), v)
        for slug, v in selected.items() if usual.contrast == "control_contrast" else ():
            if controls[slug] == original and shift in table.raw:
                moved = raw(shift, slug, v.layer) - raw(shift, repeat, v.layer)
                add("retrained", f"{slug}@{repeat}", moved, v)
    return found


def sweep_results(
    found: Tried, chosen: Mapping[str, Choice], selected: Mapping[str, Selected]
) -> dict[str, Leaf]:
    """What was chosen for each organism, why, and all that was tried, by dotted key."""
    used = {(c.layer, c.dose) for c in chosen.values()}
    common = used.pop() if len(used) == 1 else None
    results: dict[str, Leaf] = {"layer": common[0] if common else "per model"}
    results |= {"dose": common[1]} if common else {}
    blocks, doses = ({cell[k] for cell in found.cells} for k in (0, 1))
    for i, (slug, c) in enumerate(chosen.items()):
        at, best = found.cells.index((c.layer, c.dose)), found.gain[:, i].mean(-1).argmax()
        entry: dict[str, Leaf] = {
            "layer": c.layer,
            "dose": c.dose,
            "coefficient": selected[slug].coefficient,
            "raw_norm": selected[slug].norm,
            "gain": t_interval(found.gain[at, i]),
            "damage": float(found.damage[at, i]),
            "edge.layer": _edge(c.layer, blocks),
            "edge.dose": _edge(c.dose, doses),
            "best_layer_by_margin": found.cells[best][0],
            "best_dose_by_margin": found.cells[best][1],
            "status": c.status,
        }
        results |= {f"{slug}.{name}": value for name, value in entry.items()}
    for cell, (block, dose) in enumerate(found.cells):
        gain, key = found.gain[cell], f"grid.{block}.{spelt(dose)}"
        results[f"{key}.mean"] = t_interval(gain.mean(0))
        results[f"{key}.damage"] = float(found.damage[cell].mean())
        results[f"{key}.random"] = t_interval(found.random[cell])
        results |= {f"{key}.{s}": t_interval(gain[i]) for i, s in enumerate(found.names)}
    return results


def _edge(value: float, tried: set[int] | set[float]) -> str:
    """Is a choice the first or last of those that were tried?"""
    return "yes" if value in (min(tried), max(tried)) else "no"


def block_rows(found: Tried, chosen: Mapping[str, Choice]) -> list[list[float]]:
    """Rows of the plot: block, mean gain of each organism at its chosen dose, of a random one."""
    rows = []
    for block in sorted({block for block, _ in found.cells}):
        at = [found.cells.index((block, chosen[slug].dose)) for slug in found.names]
        gains = [float(found.gain[cell, i].mean()) for i, cell in enumerate(at)]
        rows.append([block, *gains, float(found.random[at].mean())])
    return rows


def contrast_efficacy(
    read: Read, table: VectorTable, chosen: Mapping[str, Choice], chance: Array,
    settings: LayerSweep,
) -> dict[str, Leaf]:  # fmt: skip
    """Gain of every contrast and span at the chosen blocks, over all doses, by dotted key.

    `efficacy.<contrast>.<span>.<dose>` is the mean over the organisms that have such a vector;
    without a dose, it is the best of those whose damage is allowed.
    """
    doses, results = sorted(settings.doses), dict[str, Leaf]()
    gains: dict[str, list[Floats]] = {choice: [] for choice in table.raw}
    damages: dict[str, list[Floats]] = {choice: [] for choice in table.raw}
    for block in sorted({c.layer for c in chosen.values()}):
        units = {
            f"{choice} {slug}": table.units(choice, slug)
            for choice in table.raw
            for slug, c in chosen.items()
            if c.layer == block and table.status(choice, slug, block) == OK
        }
        if units:
            cells = [(block, dose) for dose in doses]
            found = tried(read, units, chance, cells, table.residual)
            for i, name in enumerate(found.names):
                gains[name.split()[0]].append(found.gain[:, i])
                damages[name.split()[0]].append(found.damage[:, i])
    for choice, each in gains.items():
        key = f"efficacy.{choice}"
        results[f"{key}.vectors"] = len(each)
        for slug, c in chosen.items():
            if (why := table.status(choice, slug, c.layer)) != OK:
                results[f"{key}.without.{slug}"] = why
        if not each:
            results[key] = "undefined for every organism"
            continue
        gain, damage = np.mean(each, axis=0), np.mean(damages[choice], axis=0)
        allowed = damage <= settings.max_damage
        best = int(np.where(allowed, gain.mean(-1), -np.inf).argmax())
        why = f"every dose costs more than {settings.max_damage:g} nats a token"
        results[key] = t_interval(gain[best]) if allowed.any() else f"undefined: {why}"
        results |= {f"{key}.dose": doses[best]} if allowed.any() else {}
        for dose, values, cost in zip(doses, gain, damage, strict=True):
            results[f"{key}.{spelt(dose)}"] = t_interval(values)
            results[f"{key}.{spelt(dose)}.damage"] = float(cost)
    return results
