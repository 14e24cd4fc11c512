"""What the margins of answer pairs say of organisms and vectors (docs/method.md: outcomes).

Everything is a mean over questions of differences of margins, in nats a token, so that intervals
are Student's t over questions; where a model was trained twice, intervals hold retraining too.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Self

import numpy as np
import polars as pl

from em_geometry.io.results import Leaf, Nested, as_estimate, spelt
from em_geometry.settings import BASE
from em_geometry.stats.decisions import detectable, effect, holm, t_test
from em_geometry.stats.estimate import PROMPTS_ONLY, Estimate, Floats
from em_geometry.stats.intervals import fieller, jackknife, t_interval
from em_geometry.stats.permutation import dealt, n_splits, share_as_far
from em_geometry.stats.retraining import Trained, both
from em_geometry.steering.pairs import KINDS, Kind, Way

Groups = Mapping[str, Sequence[str]]  # laboratory or cluster -> its organisms
MAIN: Kind = "misaligned"
CLOSE = 1e-9  # differences this close tie
Pairs = Sequence[tuple[str, str]]  # (source, target)
Results = dict[str, Leaf]


@dataclass(frozen=True)
class Who:
    """Who is who.

    Attributes:
        steered: targets that vectors act on, the base among them.
        control_of: of each organism, the benign control of its recipe, or why there is none.
        repeats: second training -> the organism or control that it repeats.
    """

    organisms: Sequence[str]
    controls: Sequence[str]
    steered: Sequence[str]
    control_of: Mapping[str, str]
    repeats: Mapping[str, str]
    labs: Groups
    clusters: Groups


@dataclass(frozen=True, eq=False)
class Done:
    """One trial on pairs of one kind: what it adds to margins, in nats a token.

    Attributes:
        gain: [pair] margin minus that of the target left alone.
        damage: fall of the mean log-probability of both answers.
        norm: block and coefficient, by which a vector finds its random directions.
    """

    gain: Floats
    damage: float
    norm: tuple[int, float]


@dataclass(frozen=True, eq=False)
class Margins:
    """Margins of all targets, [pair] of all reporting pairs of a kind; NaN for pairs not read.

    Attributes:
        rest: (target, kind) -> margins [pair], nothing done.
        done: (target, kind, way, source, multiple) -> what was done.
        random: (target, kind, norm) -> gains [direction, pair] of random directions.
    """

    rest: Mapping[tuple[str, Kind], Floats]
    done: Mapping[tuple[str, Kind, Way, str, float], Done]
    random: Mapping[tuple[str, Kind, tuple[int, float]], Floats]

    @classmethod
    def of(cls, frame: pl.DataFrame) -> Self:
        """From rows of `steering.pairs.table`."""
        margin, level = pl.col("marked") - pl.col("plain"), pl.col("marked", "plain")
        frame = frame.with_columns(margin=margin, level=pl.mean_horizontal(level))
        names = ["target", "kind", "way", "source", "multiple", "layer", "coefficient"]
        every = dict[str, dict[str, int]]()  # kind -> pair -> place
        rest, before = {}, {}
        done, random = {}, dict[tuple[str, Kind, tuple[int, float]], list[Floats]]()
        for key, part in frame.group_by(names, maintain_order=True):
            target, kind, way, source, multiple, *norm = key
            pairs, found = part["pair"].to_list(), part["margin"].to_numpy()
            if way == "unsteered":  # the first rows of each target, on all pairs
                order = every.setdefault(kind, {pair: i for i, pair in enumerate(pairs)})
                places = np.array([order[pair] for pair in pairs])
                rest[target, kind] = found[np.argsort(places)]
                before[target, kind] = part["level"].to_numpy()[np.argsort(places)]
                continue
            places = np.array([every[kind][pair] for pair in pairs])
            gain = np.full(len(every[kind]), np.nan)
            gain[places] = found - rest[target, kind][places]
            harm = float((before[target, kind][places] - part["level"].to_numpy()).mean())
            at = (norm[0], norm[1])
            if way == "random":
                random.setdefault((target, kind, at), []).append(gain)
            else:
                done[target, kind, way, source, multiple] = Done(gain, harm, at)
        return cls(rest, done, {k: np.stack(v) for k, v in random.items()})

    def beyond(
        self, target: str, source: str, kind: Kind = MAIN, way: Way = "vector", last: int = 0
    ) -> Floats:
        """Gains [pair] at the chosen coefficient, minus the mean of random directions there.

        Args:
            last: of the directions, so many last ones; 0 = all.
        """
        found = self.done[target, kind, way, source, 1.0]
        gain: Floats = found.gain - self.random[target, kind, found.norm][-last:].mean(0)
        return gain

    def directions(self, target: str, source: str) -> Floats:
        """Gains [direction, pair] of the random directions of a vector's norm on a target."""
        return self.random[target, MAIN, self.done[target, MAIN, "vector", source, 1.0].norm]


def outcomes(table: Margins, who: Who, no_effect: float) -> Nested:
    """All that is reported of margins, by dotted key.

    Args:
        no_effect: nats a token; what lies within it of 0 counts as no effect.
    """
    return {
        **organisms(table, who, no_effect),
        **vectors(table, who, no_effect),
        **transfer(table, who, no_effect),
        **effectiveness(table, who),
        **asymmetries(table, who),
        **by_dose(table),
        **beside(table, no_effect),
    }


def organisms(table: Margins, who: Who, no_effect: float) -> Results:
    """Unsteered margins: of organisms and repeats minus own control, of controls minus base."""
    results: Results = {}
    for kind in KINDS:
        mean = {target: float(m.mean()) for (target, k), m in table.rest.items() if k == kind}
        changes = {r: mean[r] - mean[o] for r, o in who.repeats.items() if r in mean}
        trained = [Trained(1, part) for part in _by_role(changes, who)]
        for slug in who.organisms:
            if (own := who.control_of[slug]) not in mean:
                results[f"organism.{slug}.{kind}"] = own
                continue
            against = table.rest[slug, kind] - table.rest[own, kind]
            results |= _estimates(f"organism.{slug}.{kind}", against, trained, no_effect)
        for repeat, slug in who.repeats.items():
            if slug in who.organisms and {repeat, own := who.control_of[slug]} <= set(mean):
                against = table.rest[repeat, kind] - table.rest[own, kind]
                results[f"repeat.{repeat}.{kind}"] = _mean(against)
        for slug in who.controls:
            against = table.rest[slug, kind] - table.rest[BASE, kind]
            results[f"control.{slug}.{kind}"] = _mean(against)
        results |= {f"unsteered.{t}.{kind}": _mean(table.rest[t, kind]) for t in mean}
    return results


def vectors(table: Margins, who: Who, no_effect: float) -> Results:
    """What vectors, and shifts of benign fine-tunes, do to the base beyond random directions."""
    results, trained = Results(), retrained(table, who)
    for target, kind, way, source, multiple in table.done:
        if way not in ("vector", "benign") or (target, multiple) != (BASE, 1.0):
            continue
        key, gain = f"vector.{source}", table.beyond(BASE, source, kind, way)
        if kind != MAIN:
            results[f"{key}.{kind}"] = _mean(gain)
            continue
        done = table.done[BASE, kind, way, source, 1.0]
        chance = table.random[BASE, kind, done.norm][:, np.isfinite(gain)].mean(-1)
        farthest = float(np.quantile(chance - chance.mean(), 0.95))
        own = [*(trained if way == "vector" else ()), _scatter(chance, len(chance))]
        rows = _estimates(f"{key}.beyond_random", gain, own, no_effect)
        found = as_estimate(rows[f"{key}.beyond_random"])
        said = effect(found, no_effect)
        above = found.low is not None and found.low > 0 and (found.value or 0.0) > farthest
        results |= {
            **rows,
            f"{key}.random_95": farthest,
            f"{key}.random_directions": len(chance),
            f"{key}.steers": "yes" if above else "not beyond random" if said == "effect" else said,
            f"{key}.damage": done.damage,
            f"{key}.way": way,
        }
    return results


def transfer(table: Margins, who: Who, no_effect: float) -> Results:
    """Gains on every target beyond random directions there, with p of the interval and Holm's.

    Intervals hold the training of the vector, and how far random directions lie apart, as the base
    shows both; not the training of the target. `all_organisms`, `all_aligned`: on average over the
    pairs with such targets.
    """
    results, trained = Results(), retrained(table, who)
    pairs = [p for p in product(who.organisms, who.steered) if _steered(table, *p)]
    gains = {f"transfer.{s}__{t}": (s, t) for s, t in pairs}
    for key, (source, target) in gains.items():
        parts = [*trained, _drawn(table, source, target)]
        results |= _estimates(key, table.beyond(target, source), parts, no_effect)
    p = [t_test(as_estimate(results[key])) for key in gains]
    for key, plain, adjusted in zip(gains, p, holm(p), strict=True):
        if np.isfinite(plain):
            results |= {f"{key}.p": plain, f"{key}.p_holm": float(adjusted)}
    for name, some in _others(pairs, who).items():
        gain = np.mean([table.beyond(t, s) for s, t in some], axis=0)
        parts = _of_all(table, who, some, trained)
        results |= _estimates(f"transfer.{name}", gain, parts, no_effect)
    for ending, name in (("", ""), (f".{PROMPTS_ONLY}", f"_{PROMPTS_ONLY}")):
        widths = [as_estimate(results[key + ending]).width for key in gains]
        if known := [width for width in widths if width is not None]:
            results[f"transfer.median_half_width{name}"] = float(np.median(known)) / 2
    return results


def effectiveness(table: Margins, who: Who) -> Results:
    """E1 in percent: gain on the target over gain on the vector's own model (Fieller)."""
    known = [s for s in who.organisms if _steered(table, s, s)]
    pairs = [(s, t) for s, t in product(known, who.steered) if s != t and _steered(table, s, t)]
    results: Results = {f"e1.{s}__{t}": _e1(table, [(s, t)]) for s, t in pairs}
    return results | {f"e1.{k}": _e1(table, some) for k, some in _others(pairs, who).items()}


def _others(pairs: Pairs, who: Who) -> dict[str, Pairs]:
    """Pairs of a source and another model, by what that is; no key where there are none."""
    apart = [(s, t) for s, t in pairs if s != t]
    found = {
        "all_organisms": [(s, t) for s, t in apart if t in who.organisms],
        "all_aligned": [(s, t) for s, t in apart if t not in who.organisms],
    }
    return {name: some for name, some in found.items() if some}


def asymmetries(table: Margins, who: Who) -> Results:
    """Gain from group to group minus the reverse, with p by dealing the labels anew, and Holm's."""
    known = [s for s in who.organisms if all(_steered(table, s, t) for t in who.organisms)]
    results, p = Results(), dict[str, float]()
    for label, groups in (("lab", who.labs), ("cluster", who.clusters)):
        groups = {k: some for k, v in groups.items() if (some := [m for m in v if m in known])}
        models = [m for members in groups.values() for m in members]
        effects = np.array([[_read(table.beyond(t, s)).mean() for t in models] for s in models])
        for a, b in combinations(groups, 2):
            key, there = f"asymmetry.{label}.{a}__{b}", list(product(groups[a], groups[b]))
            back = list(product(groups[b], groups[a]))
            to, fro = (np.mean([table.beyond(t, s) for s, t in x], axis=0) for x in (there, back))
            sizes = len(groups[a]), len(groups[b]), len(models) - len(groups[a]) - len(groups[b])
            order = [models.index(m) for m in [*groups[a], *groups[b]]]
            order += [i for i in range(len(models)) if i not in order]
            deals = dealt(effects[np.ix_(order, order)], sizes)
            p[key] = share_as_far(float(_read(to - fro).mean()), deals, CLOSE)
            results |= {
                key: _mean(to - fro),
                f"{key}.there": _mean(to),
                f"{key}.back": _mean(fro),
                f"{key}.e1_there": _e1(table, there),
                f"{key}.e1_back": _e1(table, back),
                f"{key}.e1_ratio": _e1_ratio(table, back, there),
                f"{key}.p": p[key],
                f"{key}.smallest_p": (2 if sizes[0] == sizes[1] else 1) / n_splits(sizes),
            }
    adjusted = holm([*p.values()])
    return results | {f"{k}.p_holm": float(v) for k, v in zip(p, adjusted, strict=True)}


def by_dose(table: Margins) -> Results:
    """Gains on the base by dose, against nothing done, on the pairs that all doses read.

    `chance.<source>`: of random directions at the chosen coefficient, the only dose they have.
    """
    doses: dict[str, dict[float, Done]] = {}
    for (target, kind, way, source, multiple), done in table.done.items():
        if (target, kind, way) == (BASE, MAIN, "vector"):
            doses.setdefault(source, {})[multiple] = done
    results: Results = {}
    for source, each in doses.items():
        common = np.isfinite([done.gain for done in each.values()]).all(0)
        for multiple, done in each.items():
            results[f"dose.{source}.{spelt(multiple)}"] = _mean(done.gain[common])
        chance = table.random[BASE, MAIN, each[1.0].norm].mean(0)
        results[f"chance.{source}"] = _mean(chance[common])
    return results


def beside(table: Margins, no_effect: float) -> Results:
    """Gains of what is orthogonal to the target's own vector, beyond random; changes by ablation.

    Ablation is compared with nothing done.
    """
    results: Results = {}
    for (target, kind, way, source, _), done in table.done.items():
        if way == "orthogonalised":
            gain, drawn = table.beyond(target, source, kind, way), _drawn(table, source, target)
            results |= _estimates(f"{way}.{source}__{target}", gain, [drawn], no_effect)
        elif way in ("ablation", "ablation_everywhere"):
            where = "one" if way == "ablation" else "all"
            results[f"ablation.{source}.{where}"] = _mean(done.gain)
    return results


def retrained(table: Margins, who: Who) -> list[Trained]:
    """What another training of the organism, and of its control, changes in a vector's gain.

    A repeat of a control changes the vectors of all its organisms; their root mean square counts.
    """
    found: dict[str, list[float]] = {}
    for target, _, way, source, _ in table.done:
        if (target, way) == (BASE, "retrained"):
            slug, _, repeat = source.partition("@")
            moved = table.beyond(BASE, source, way="retrained") - table.beyond(BASE, slug)
            found.setdefault(repeat, []).append(float(_read(moved).mean()))
    changes = {repeat: float(np.sqrt(np.square(each).mean())) for repeat, each in found.items()}
    return [Trained(1, part) for part in _by_role(changes, who)]


def _drawn(table: Margins, source: str, target: str) -> Trained:
    """The scatter of random directions in a gain on a target, as the base shows it."""
    chance = np.nanmean(table.directions(BASE, source), axis=-1)
    return _scatter(chance, len(table.directions(target, source)))


def _of_all(table: Margins, who: Who, pairs: Pairs, trained: Sequence[Trained]) -> list[Trained]:
    """What retraining and random directions add to the mean gain of several pairs.

    Every organism and every control moves its own vectors; directions are the same everywhere.

    Args:
        trained: of one vector, by organisms and controls (`retrained`).
    """
    weight = Counter(s for s, _ in pairs)
    of_control = Counter[str]()
    for source, count in weight.items():
        of_control[who.control_of[source]] += count
    models = [sum((n / len(pairs)) ** 2 for n in each.values()) for each in (weight, of_control)]
    chance = np.mean([np.nanmean(table.directions(BASE, s), axis=-1) for s in weight], axis=0)
    fewest = min(len(table.directions(t, s)) for s, t in pairs)
    parts = [replace(part, models=n) for part, n in zip(trained, models, strict=True)]
    return [*parts, _scatter(chance, fewest)]


def _scatter(chance: Floats, k: int) -> Trained:
    """What other random directions would change in a gain beyond the mean of `k` of them.

    Args:
        chance: [direction] mean gains of such directions.
    """
    n = len(chance)
    apart = chance - chance.mean()
    return Trained(1, apart * (2 * n / (n - 1) / k) ** 0.5 if n > 1 else np.empty(0))


def _by_role(changes: Mapping[str, float], who: Who) -> Iterator[Floats]:
    """Changes by repeats of organisms, then by those of controls."""
    for role in (who.organisms, who.controls):
        yield np.array([c for repeat, c in changes.items() if who.repeats[repeat] in role])


def _read(values: Floats) -> Floats:
    """Values of the pairs that were read in all that they compare."""
    return values[np.isfinite(values)]


def _mean(values: Floats) -> Estimate:
    return t_interval(_read(values))


def _estimates(key: str, values: Floats, trained: Sequence[Trained], no_effect: float) -> Results:
    """The mean of values [question] with and without retraining; beside a null, what would show."""
    sampled = _mean(values)
    rows: Results = dict(both(key, sampled, float(sampled.n or 1) - 1, trained))
    found = as_estimate(rows[key])
    rows[f"{key}.says"] = effect(found, no_effect)
    if found.low is not None and found.high is not None and found.low <= 0 <= found.high:
        rows[f"{key}.detectable"] = detectable(found)
    return rows


def _steered(table: Margins, source: str, target: str) -> bool:
    return (target, MAIN, "vector", source, 1.0) in table.done


def _e1(table: Margins, pairs: Pairs) -> Estimate:
    """Mean gain over pairs of source and target, over that of the sources on their own models.

    Both are beyond the same random directions.
    """
    last = min(len(table.directions(t, s)) for s, target in pairs for t in (s, target))
    there = np.mean([table.beyond(t, s, last=last) for s, t in pairs], axis=0)
    own = np.mean([table.beyond(s, s, last=last) for s, _ in pairs], axis=0)
    common = np.isfinite(there + own)
    return fieller(there[common], own[common]).scaled(100)


def _e1_ratio(table: Margins, first: Pairs, second: Pairs) -> Estimate:
    """E1 of the first pairs over that of the second, by the jackknife (the paper's "3-4x")."""
    to, own_to, fro, own_fro = (
        np.mean([table.beyond(t, s) for s, t in each], axis=0)
        for pairs in (first, second)
        for each in (pairs, [(s, s) for s, _ in pairs])
    )
    parts = np.array([to, own_to, fro, own_fro])
    parts = parts[:, np.isfinite(parts).all(0)]
    for below in parts[1:]:
        known = t_interval(below)
        if known.low is None or known.high is None or known.low <= 0 <= known.high:
            return Estimate.undefined("undefined: a denominator's interval includes 0", known.n)

    def ratio(values: Floats) -> Floats:
        return np.asarray(values[0] / values[1] / (values[2] / values[3]))

    without = (parts.sum(1, keepdims=True) - parts) / (parts.shape[1] - 1)
    return jackknife(float(ratio(parts.mean(1))), ratio(without))
