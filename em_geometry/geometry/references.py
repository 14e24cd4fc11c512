"""Vectors under several references, and how far retraining and prompts move what they say.

Every vector is a weighted sum of the shifts of fine-tuned models against the base: the organism's
own, minus those of what it is compared with. So the Gram matrices of all references, and of all
trainings that could stand in an organism's or control's place, follow from one Gram matrix of the
models (docs/method.md: references).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Literal, TypeAlias, get_args

import numpy as np

from em_geometry.geometry import methods as m
from em_geometry.geometry.grams import PromptRows
from em_geometry.geometry.vector_sets import cluster_indices
from em_geometry.io.results import Leaf
from em_geometry.settings import Geometry
from em_geometry.stats.estimate import PROMPTS_ONLY, Estimate, Floats, Ints
from em_geometry.stats.intervals import ends, jackknife
from em_geometry.stats.retraining import Trained, both

Reference = Literal["base", "one_control", "own_control", "mean_control"]
REFERENCES: tuple[Reference, ...] = get_args(Reference)
RIGHT, NEAR_ZERO = 90.0, 0.1  # "beyond orthogonal"; our reading of "near zero" (claim C008)
UNDEFINED = "undefined for these vectors"
RANGES = (  # of statistics by key, beyond which no interval goes
    (r"(cosine|(similarity\.)?(cross|within)(_m|\.)|pca\..*loading|.*\.after$)", -1.0, 1.0),
    (r"subspace\..*_r_", -1.0, 1.0),
    (r"(angle_deg|cluster_angle|test1$|statistic\.test1$)", 0.0, 180.0),
    (r"(.*magnitude$|test2$|statistic\.test2$|core)", 0.0, 1.0),
    (r"((?!.*reduction).*_pct$|test5$|statistic\.test5$)", 0.0, 100.0),
)
Statistic: TypeAlias = Callable[[Floats], Mapping[str, Floats]]  # cosines [..., n, n] -> key: [...]


@dataclass(frozen=True)
class Finetunes:
    """The fine-tuned models of a run, whose shifts the vectors are made of."""

    organisms: Sequence[str]  # in order
    controls: Sequence[str] = ()
    own: Mapping[str, str] | None = None  # organism -> control of its recipe, or why it has none
    repeats: Mapping[str, str] | None = None  # repeat -> what it trains again with another seed
    random: Sequence[str] = ()  # adapters as large as an organism's, in random directions

    @property
    def models(self) -> list[str]:
        """Organisms, controls, repeats, random adapters: the order of all arrays over models."""
        return [*self.organisms, *self.controls, *(self.repeats or {}), *self.random]

    @property
    def benign(self) -> dict[str, str]:
        """Controls and their repeats -> what each is a training of."""
        again = {r: first for r, first in (self.repeats or {}).items() if first in self.controls}
        return {name: name for name in self.controls} | again

    def weights(self, reference: Reference) -> Floats | str:
        """Weights [organism, model] of the vectors on the shifts, or why there are none."""
        place = {name: i for i, name in enumerate(self.models)}
        weights = np.eye(len(self.organisms), len(place))
        if reference == "base":
            return weights
        if not self.controls:
            return "undefined: no controls"
        for row, name in zip(weights, self.organisms, strict=True):
            control = (self.own or {}).get(name, "undefined: no control")
            if reference == "own_control" and control not in place:
                return f"undefined: {name}: {control.removeprefix('undefined: ')}"
            subtracted = {"own_control": [control], "one_control": self.controls[:1]}
            for each in (others := subtracted.get(reference, self.controls)):
                row[place[each]] -= 1 / len(others)
        return weights

    def retrained(self, weights: Floats, trained: Mapping[str, str]) -> Floats:
        """The weights with repeats in the place of their originals (original -> repeat)."""
        place, moved = {name: i for i, name in enumerate(self.models)}, weights.copy()
        for first, repeat in trained.items():
            moved[:, place[repeat]] = weights[:, place[first]]
            moved[:, place[first]] = 0.0
        return moved

    def trainings(self, weights: Floats) -> Floats:
        """Weights [combinations, organism, model] with each model's trainings, the run's first."""
        again: dict[str, list[str | None]] = {}
        for repeat, first in (self.repeats or {}).items():
            again.setdefault(first, [None]).append(repeat)
        chosen = (dict(zip(again, each, strict=True)) for each in product(*again.values()))
        return np.stack(
            [
                self.retrained(weights, {f: r for f, r in each.items() if r is not None})
                for each in chosen
            ]
        )


def gram_under(weights: Floats, models: Floats) -> Floats:
    """Cosines [..., n, n] of vectors with `weights` [..., n, m] on models of Gram [..., m, m]."""
    return m.cosines(weights @ models @ np.swapaxes(weights, -1, -2))


def main_statistics(
    gram: Floats, names: Sequence[str], members: m.Members, rules: Geometry
) -> dict[str, Floats]:
    """The numbers that are given under every reference: key -> [...], from cosines [..., n, n].

    Angles of clusters, cosines, their mean within and across clusters, the largest across, by how
    much the smallest within lies above it, and the statistics of the five tests.
    """
    values = m.pair_values(gram)
    inside, outside = m.cluster_pairs(len(names), members)
    found = {
        f"cluster_angle.{a}__{b}": m.cluster_angle(gram, members[a], members[b])
        for a, b in combinations(members, 2)
    }
    found |= {f"cosine.{a}__{b}": values[..., p] for p, (a, b) in
              enumerate(combinations(names, 2))}  # fmt: skip
    none = np.full(gram.shape[:-2], np.nan)
    largest = values[..., outside].max(-1) if outside else none
    found["within_mean"] = m.mean(values[..., inside])
    found["cross_mean"] = m.across_mean(gram, members)
    found["cross_max"] = largest
    found["apart"] = (values[..., inside].min(-1) if inside else none) - largest
    return found | m.statistics(gram, members, rules)


def extremes(
    found: Mapping[str, Estimate], names: Sequence[str], members: m.Members
) -> dict[str, Estimate]:
    """`cross_max` and `apart` from the estimates of the cosines that they are extremes of.

    The largest of noisy values lies too high, and so does what is left of it without a topic. The
    interval from the largest lower to the largest upper end misses the true largest value only
    where that of a cosine misses its own.
    """
    inside, outside = m.cluster_pairs(len(names), members)
    results: dict[str, Estimate] = {}
    for suffix in ("", f".{PROMPTS_ONLY}") if outside else ():
        each = [found[f"cosine.{a}__{b}{suffix}"] for a, b in combinations(names, 2)]
        rows = np.array([(np.nan if e.value is None else e.value, *ends(e)) for e in each])
        most = rows[outside].max(0)
        known = {"cross_max": most}
        if inside:
            known["apart"] = rows[inside].min(0) - most[[0, 2, 1]]
        for key, (value, low, high) in known.items():
            estimate = Estimate.from_values(value, low, high, each[0].n, UNDEFINED)
            results[f"{key}{suffix}"] = estimate
    return results


def conclusions(rules: Geometry) -> dict[str, tuple[str, int, float]]:
    """What the paper concludes: name -> statistic, its sign and the bound above which it holds.

    Four statements of its text (3.2, 3.3, 3.6), and "independent" by each of its five tests.
    """
    return {
        "angle_above_90": ("test1", 1, RIGHT),
        "cross_mean_small": ("cross_mean", -1, -rules.orthogonal_below),
        "cross_all_near_zero": ("cross_max", -1, -NEAR_ZERO),
        "clusters_apart": ("apart", 1, 0.0),
        "test1": ("test1", 1, rules.shared_angle_deg),
        "test2": ("test2", -1, -rules.orthogonal_below),
        "test3": ("test3", -1, 0.0),
        "test4": ("test4", 1, rules.ablation_ratio),
        "test5": ("test5", -1, -rules.independent_variance_pct),
    }


def holds(found: Mapping[str, Floats], rules: Geometry) -> dict[str, Floats]:
    """Conclusion -> 1 where it holds, 0 where it does not, NaN where it is undefined [...]."""
    return {
        name: np.where(np.isfinite(found[key]), sign * found[key] > bound, np.nan)
        for name, (key, sign, bound) in conclusions(rules).items()
    }


def said(estimate: Estimate, sign: int, bound: float) -> str:
    """Does a conclusion hold over the whole interval of its statistic: yes, no or cannot tell."""
    if estimate.value is None:
        return UNDEFINED
    if estimate.low is None or estimate.high is None:
        return "cannot tell"
    least, most = sorted((sign * estimate.low, sign * estimate.high))
    return "yes" if least > bound else "no" if most <= bound else "cannot tell"


# parts of the battery whose keys name all vectors that they rest on
NAMED = ("cosine", "angle_deg", "triangle", "residual", "subspace", "projection")


def rests_on(key: str, names: Sequence[str], members: m.Members, rules: Geometry) -> list[int]:
    """Positions of the organisms that a statistic is about, by its key."""
    part, _, rest = key.partition(".")
    every = sorted({i for indices in members.values() for i in indices}) or [*range(len(names))]
    if part in NAMED:
        return sorted({names.index(n) for n in re.split(r"\.|__", rest) if n in names})
    focus = m.focus_of(members, rules)
    if key.removeprefix("statistic.") in set(m.TESTS) - {"test4"} and focus is not None:
        return [i for cluster in focus for i in members[cluster]]
    edge = r"(?:^|$|\.|__|_on_|_pc1_in_|_deg)"
    about = [c for c in members if re.search(f"{edge}{re.escape(c)}(?={edge})", rest)]
    return [i for cluster in about for i in members[cluster]] or every


def kind_of(key: str) -> str:
    """Statistics of one kind differ only in whom they are about."""
    return re.sub(r"[^.]+(__|_on_|_pc1_in_)[^.]+|(?<=^similarity.within.).+", "*", key)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Measured vectors, and what tells how prompts and retraining move what is said of them."""

    clusters: Mapping[str, Sequence[str]]
    family: Finetunes  # the models; its organisms are those of the vectors, in order
    weights: Floats  # [organism, model] of the vectors on the models' rows
    models: PromptRows  # of all models of the family, in its order
    massive: Ints  # dimensions of massive activations

    @property
    def sample(self) -> PromptRows:
        """The vectors and the rows behind them."""
        rows = np.tensordot(self.weights, self.models.differences, 1)
        return PromptRows(rows, self.models.topic)

    @property
    def members(self) -> dict[str, list[int]]:
        """Clusters as positions among the organisms."""
        return cluster_indices(self.family.organisms, self.clusters)

    def under(self, weights: Floats) -> Floats:
        """Cosines [..., n, n] of vectors with other weights [..., n, m] on the models."""
        return gram_under(weights, self.models.grams[0])

    def estimates(self, statistic: Statistic, rules: Geometry) -> dict[str, Estimate]:
        """Each statistic with prompts and retraining in its interval, and with prompts only.

        Args:
            rules: say which clusters a test compares.
        """
        found = statistic(gram_under(self.weights, self.models.grams))
        repeats, changes = self.family.repeats or {}, dict[str, dict[str, float]]()
        for repeat, first in repeats.items():
            moved = self.family.retrained(self.weights, {first: repeat})
            again = statistic(self.under(moved))
            changes[repeat] = {key: float(again[key] - values[0]) for key, values in found.items()}
        uses = {key: self._used(key, rules) for key in found}
        results: dict[str, Estimate] = {}
        for key, values in found.items():
            sampled = jackknife(float(values[0]), values[1:], UNDEFINED)
            trained = []
            for role in (self.family.organisms, self.family.controls):
                again_of_role = [r for r, first in repeats.items() if first in role]
                moves = [_change(key, repeats[r], changes[r], uses) for r in again_of_role]
                known = np.array([move for move in moves if np.isfinite(move)])
                trained.append(Trained(len(uses[key] & {*role}), known))
            rows = both(key, sampled, len(values) - 2, trained)
            results |= {at: within_range(key, row) for at, row in rows.items()}
        return results

    def _used(self, key: str, rules: Geometry) -> set[str]:
        """The models that a statistic rests on."""
        about = rests_on(key, self.family.organisms, self.members, rules)
        used = (self.weights[about] != 0).any(0)
        return {name for name, yes in zip(self.family.models, used, strict=True) if yes}


def within_range(key: str, estimate: Estimate) -> Estimate:
    """An interval without values that its statistic cannot have."""
    for pattern, least, most in RANGES:
        if re.match(pattern, key):
            return estimate.within(least, most)
    return estimate


def _change(
    key: str, first: str, changes: Mapping[str, float], uses: Mapping[str, set[str]]
) -> float:
    """What retraining `first` changes in a statistic; where that does not rest on it, the root
    mean square over those of its kind that do; NaN without any."""
    if first in uses[key]:
        return changes[key]
    alike = [c for k, c in changes.items()
             if kind_of(k) == kind_of(key) and first in uses[k] and np.isfinite(c)]  # fmt: skip
    return float(np.sqrt(np.mean(np.square(alike)))) if alike else np.nan


def reference_results(data: Evidence, rules: Geometry) -> dict[str, Leaf]:
    """Every main statistic under each reference, what holds, and verdicts over all trainings.

    Args:
        data: under any reference.
    """
    results: dict[str, Leaf] = {}
    names, members = data.family.organisms, data.members

    def statistic(grams: Floats) -> dict[str, Floats]:
        return main_statistics(grams, names, members, rules)

    for reference in REFERENCES:
        at, weights = f"reference.{reference}", data.family.weights(reference)
        if isinstance(weights, str):
            results[at] = weights
            continue
        found = replace(data, weights=weights).estimates(statistic, rules)
        found |= extremes(found, names, members)
        for key, estimate in found.items():  # of clusters here, of organisms in the battery
            results[f"{at}.{key.replace('cluster_angle.', 'angle_deg.')}"] = estimate
        for name, (key, sign, bound) in conclusions(rules).items():
            results[f"{at}.holds.{name}"] = said(found[key], sign, bound)
        codes = m.decide(statistic(data.under(data.family.trainings(weights))), rules)
        counts = m.count(codes.values())
        if np.isfinite(counts).all():
            results |= {f"{at}.verdict_count": int(counts[0]),
                        f"{at}.verdict_count.lowest": int(counts.min()),
                        f"{at}.verdict_count.highest": int(counts.max()),
                        f"{at}.verdict_count.trainings": len(counts)}  # fmt: skip
        for test, code in codes.items():
            results[f"{at}.independent.{test}"] = Estimate(int((code == 1).sum()), n=len(code))
    return results
