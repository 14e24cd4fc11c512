"""Every statistic of the battery with its interval and its nulls (docs/method.md: calibration).

Nulls: `covariance` - the vectors are draws from N(0, Sigma), Sigma the covariance of the rows
behind them - with and without massive-activation dimensions; `flips` - no organism has a consistent
difference (signs flipped, or labels of answers shuffled); `partitions` - the cluster labels mean
nothing; `controls` - organisms are no more alike than each is like a benignly fine-tuned control.
For vectors alone, without rows behind them: `independent` - directions without any relation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from em_geometry.geometry import power, trees
from em_geometry.geometry.battery import Clusters, Vectors, battery, cluster_indices, vector_rows
from em_geometry.geometry.core import core_loadings, core_share, independent_grams
from em_geometry.geometry.five_tests import QUESTIONS, Members
from em_geometry.geometry.gram import cosines, pair_values, unit_gram
from em_geometry.geometry.methods import across_mean
from em_geometry.geometry.samples import Sample, covariance_draws, effective_dimension, spectrum
from em_geometry.io.results import Leaf
from em_geometry.io.tables import text_table
from em_geometry.settings import Geometry
from em_geometry.stats.arrays import Floats, Ints
from em_geometry.stats.estimate import Estimate
from em_geometry.stats.intervals import percentiles
from em_geometry.stats.permutation import Tested, null_p, partition_test, partitions
from em_geometry.stats.resample import stream

QUICK = Geometry(replicates=1000)
MIN_DEFINED = 0.95  # share of replicates that define a statistic, below which it has no interval
CORE = "core.share"
CLOSENESS = "closeness"  # mean size of a cosine; of vectors alone
INDEPENDENT = "independent"
LABELLED = (  # what the labels of clusters decide; the keys name no vectors
    "similarity.",
    "cluster_angle.",
    "cross_variance.",
    "statistic.",
    "pc1_ablation.mean_abs_change",
)
SHOWN = (*LABELLED, "cosine.", "orthogonality.", "pca.centred.pc1_pct")
VERDICTS = ("verdict_paper", "verdict_5pct")  # of power, as columns
FAIR = {  # statistics that can tell what the five tests are meant to tell
    "similarity.cross_mean": "mean cosine across clusters",
    CORE: "share of a common core",
    CLOSENESS: "mean size of a cosine",
}


@dataclass(frozen=True)
class Evidence:
    """Measured vectors, and what calibrates them.

    Attributes:
        names: organisms in order.
        clusters: cluster -> organisms.
        sample: their vectors and the rows behind them.
        controls: [c, width] vectors of the aligned controls, made the same way.
        massive: dimensions of massive activations.
    """

    names: Sequence[str]
    clusters: Clusters
    sample: Sample
    controls: Floats
    massive: Ints


@dataclass(frozen=True)
class Calibrated:
    """A statistic and what chance gives.

    Attributes:
        estimate: the observed value with its interval.
        nulls: null -> its median with the range of 95 % of its draws, and the p-value.
        partition: over all label assignments; None where labels do not matter.
        half_difference: median difference between random halves of the topics, where asked.
    """

    estimate: Estimate
    nulls: Mapping[str, tuple[Estimate, Leaf]] = field(default_factory=dict)
    partition: Tested | None = None
    half_difference: Leaf | None = None

    def results(self, key: str) -> dict[str, Leaf]:
        """By dotted key: the statistic at `key`, each null below it."""
        rows: dict[str, Leaf] = {key: self.estimate}
        for name, (null, p) in self.nulls.items():
            rows |= {f"{key}.{name}": null, f"{key}.{name}.p": p}
        if self.partition is not None:
            known = vars(self.partition) | {"assignments": self.partition.estimate.n}
            parts = ("p", "smallest_p", "assignments")
            rows |= {f"{key}.partitions.{k}": known[k] for k in parts}
        if self.half_difference is not None:
            rows[f"{key}.half_difference"] = self.half_difference
        return rows


@dataclass(frozen=True)
class Calibration:
    """What can be concluded; `print` shows the tests beside chance and power.

    Attributes:
        statistics: by key of the battery.
        results: everything by dotted key, the statistics under `statistic`.
        sweep: power over shares of a common core; None where there are no two clusters.
    """

    statistics: Mapping[str, Calibrated]
    results: Mapping[str, Leaf]
    sweep: power.Sweep | None

    def nulls_table(self) -> tuple[list[str], list[list[object]]]:
        """Header and rows of a wide table: a line a statistic; empty where undefined."""
        nulls = list(dict.fromkeys(n for c in self.statistics.values() for n in c.nulls))
        header = ["statistic", "observed", "low", "high"]
        header += [f"{name}_{part}" for name in nulls for part in ("low", "median", "high", "p")]
        header += ["partitions_p", "partitions_smallest_p"]
        rows: list[list[object]] = []
        for key, c in self.statistics.items():
            line: list[object] = [c.estimate.value, c.estimate.low, c.estimate.high]
            for name in nulls:
                null, p = c.nulls.get(name, (Estimate(None), ""))
                line += [null.low, null.value, null.high, p if isinstance(p, float) else None]
            line += [c.partition and c.partition.p, c.partition and c.partition.smallest_p]
            rows.append([key, *("" if cell is None else cell for cell in line)])
        return header, rows

    def __str__(self) -> str:
        """The five tests and the fair statistics beside chance, and what could be found."""
        rows: list[list[object]] = []
        shown = {f"statistic.{t}": words for t, words in QUESTIONS.items()} | FAIR
        for key, words in shown.items():
            c = self.statistics.get(key)
            if c is None or c.estimate.value is None:
                continue
            null, p = next(iter(c.nulls.values()))
            told = [self.results.get(f"power.{key.rpartition('.')[2]}.{v}", "") for v in VERDICTS]
            by_chance = _range(null)
            partition = c.partition.p if c.partition else ""
            rows.append([words, c.estimate.value, by_chance, p, partition, *told])
        header = ["", "value", "by chance [95 %]", "p", "p, clusters", "as published", "at 5 %"]
        text = text_table(header, rows)
        if "power.largest_share" in self.results:
            text += (
                "\nas published, at 5 %: can this test tell a common core of up to "
                f"{self.results['power.largest_share']:.2g} of the variance from none?"
            )
        closeness = self.statistics.get(CLOSENESS)
        chance = closeness.nulls[INDEPENDENT][1] if closeness else None
        if isinstance(chance, float):
            said = "look" if chance > power.LEVEL else "do not look"
            text += f"\nThese vectors {said} like random ones (p = {chance:.2g} for their cosines)."
        return text


def _range(null: Estimate) -> str:
    return (
        null.status if null.low is None else f"{null.value:.3g} [{null.low:.3g}, {null.high:.3g}]"
    )


def calibrate(
    vectors: Vectors, clusters: Clusters | None = None, rules: Geometry = QUICK, seed: int = 0
) -> Calibration:
    """What vectors alone can tell: statistics against chance, and the power of the tests.

    Args:
        vectors: name -> vector [width].
        clusters: cluster -> names.
        rules: decision rules, and the number of draws (`replicates`).
    Raises:
        UserError: as `battery`.
    """
    rows, names, groups = vector_rows(vectors), list(vectors), clusters or {}
    members, count = cluster_indices(names, groups), rules.replicates
    gram, width = unit_gram(rows), rows.shape[1]

    def found(grams: Floats) -> dict[str, Floats]:
        size = np.abs(pair_values(grams)).mean(-1)
        return {CLOSENESS: size} | calibrated(grams, names, groups, rules)

    chance = independent_grams(stream(seed, "analyse", "null"), count, len(gram), width)
    nulls = {INDEPENDENT: found(cosines(chance))}
    moved = found(relabelled(gram, members, count, stream(seed, "analyse", "partitions")))
    statistics = {
        key: compared(key, _estimate(value), nulls, moved) for key, value in found(gram).items()
    }
    results: dict[str, Leaf] = {"replicates": count, "width": width}
    sweep = None
    if len(members) > 1:
        tightness, draw = power.tightness_of(gram, members), stream(seed, "analyse")
        sweep = power.sweep(draw, count, width, len(gram), members, tightness, rules)
        results |= {f"power.{key}": leaf for key, leaf in power.verdicts_of(sweep).items()}
    return Calibration(statistics, results | _rows(statistics), sweep)


def calibrate_rows(data: Evidence, rules: Geometry, seed: int) -> Calibration:
    """The whole calibration of one choice of contrast, span and block."""

    def rng(name: str) -> np.random.Generator:
        return stream(seed, "calibration", name)

    def found(grams: Floats) -> dict[str, Floats]:
        return calibrated(cosines(grams), data.names, data.clusters, rules)

    count = rules.replicates
    members = cluster_indices(data.names, data.clusters)
    sample, gram = data.sample, unit_gram(data.sample.vectors)
    residuals = sample.residuals
    spectra = {
        "covariance": spectrum(residuals),
        "covariance_without_massive": spectrum(np.delete(residuals, data.massive, axis=-1)),
    }
    nulls = {
        name: found(covariance_draws(rng(name), values, count, len(gram)))
        for name, values in spectra.items()
    }
    nulls["flips"] = found(sample.without_effect(rng("flips"), count))
    resampled = sample.bootstrap(rng("bootstrap"), count)
    boot = found(resampled)
    split, agreement = sample.halves(rng("halves"), count)
    halves = found(split)
    moved = found(relabelled(gram, members, count, rng("partitions")))
    statistics = {
        key: compared(key, _estimate(value, boot[key], sample.topics), nulls, moved, halves)
        for key, value in found(gram).items()
    }
    dimensions = {name: effective_dimension(v) for name, v in spectra.items()}
    tightness = power.tightness_of(gram, members)
    effective = max(2, round(dimensions["covariance"]))
    sweep, full = (
        power.sweep(rng(f"power.{d}"), count, d, len(gram), members, tightness, rules)
        for d in (effective, residuals.shape[-1])
    )
    groups: dict[str, Mapping[str, Leaf]] = {
        "effective_dimension": dimensions,
        "reliability": dict(zip(data.names, agreement.mean(0).tolist(), strict=True)),
        "dimension_needed": power.dimensions_needed(gram, members),
        "power": power.verdicts_of(sweep),
        "power_full_width": power.verdicts_of(full),
    }
    results: dict[str, Leaf] = {
        "rows": sample.rows,
        "topics": sample.topics,
        "replicates": count,
        "width": residuals.shape[-1],
        "massive_dimensions": len(data.massive),
    }
    results |= _rows(statistics) | _core(gram, data, members, statistics[CORE])
    results |= controls_null(data, gram, members) | _coclustering(cosines(resampled), data, rules)
    results |= {f"{name}.{k}": leaf for name, group in groups.items() for k, leaf in group.items()}
    return Calibration(statistics, results, sweep)


def calibrated(
    grams: Floats, names: Sequence[str], clusters: Clusters, rules: Geometry
) -> dict[str, Floats]:
    """The statistics that are calibrated: key -> [...], from cosines [..., n, n]."""
    found = battery(grams, clusters, rules, names=names).values
    kept = {k: v for k, v in found.items() if k.startswith(SHOWN)}
    flat = grams.reshape(-1, *grams.shape[-2:])
    share = core_share(flat, cluster_indices(names, clusters))
    return kept | {CORE: share.reshape(grams.shape[:-2])}


def relabelled(gram: Floats, members: Members, limit: int, rng: np.random.Generator) -> Floats:
    """Cosines [m, n, n] with the vectors in the places of each other label assignment."""
    orders = partitions(list(members.values()), len(gram), limit, rng)
    return gram[orders[:, :, None], orders[:, None, :]]


def compared(
    key: str,
    estimate: Estimate,
    nulls: Mapping[str, Mapping[str, Floats]],
    moved: Mapping[str, Floats],
    halves: Mapping[str, Floats] | None = None,
) -> Calibrated:
    """A statistic beside what every null gives.

    Args:
        nulls: null -> statistic -> draws [B].
        moved: statistic -> values [m] under each label assignment.
        halves: statistic -> [2, B] from random halves of the topics.
    """
    if estimate.value is None:
        return Calibrated(estimate)
    against = {}
    for name, found in nulls.items():
        p = null_p(estimate.value, found[key])
        against[name] = (_null(found[key]), "undefined in the null" if p is None else p)
    partition = partition_test(estimate.value, moved[key]) if key.startswith(LABELLED) else None
    half: Leaf | None = None
    if halves is not None:
        apart = np.abs(halves[key][0] - halves[key][1])
        defined = apart[np.isfinite(apart)]
        half = float(np.median(defined)) if defined.size else "undefined: in no half of the topics"
    return Calibrated(estimate, against, partition, half)


def _estimate(value: Floats, draws: Floats | None = None, n: int | None = None) -> Estimate:
    """An observed value, with the interval of its draws [B] where enough define it."""
    low, high = (np.nan, np.nan) if draws is None else percentiles(draws, MIN_DEFINED)
    return Estimate.from_values(float(value), low, high, n, "undefined for these vectors")


def _null(draws: Floats) -> Estimate:
    """Median of a null's draws [B] with the range of 95 % of them."""
    finite = draws[np.isfinite(draws)]
    low, high = percentiles(draws, MIN_DEFINED)
    share = f"{1 - finite.size / draws.size:.0%}"
    if not np.isfinite(low):
        return Estimate.undefined(f"undefined in {share} of replicates")
    return Estimate(float(np.median(finite)), low, high)


def _rows(statistics: Mapping[str, Calibrated]) -> dict[str, Leaf]:
    return {
        k: leaf
        for key, c in statistics.items()
        for k, leaf in c.results(f"statistic.{key}").items()
    }


def controls_null(data: Evidence, gram: Floats, members: Members) -> dict[str, Leaf]:
    """Mean cosine across clusters against cosines of organisms with aligned controls.

    The null values are the mean cosines of each control with each cluster; they are few, so the
    smallest p that they can give stands beside p.
    """
    if len(data.controls) == 0:
        return {"controls": "undefined: no controls"}
    vectors = np.concatenate([data.sample.vectors, data.controls])
    cosine = unit_gram(vectors)[len(data.names) :, : len(data.names)]
    values = np.array([row[list(m)].mean() for row in cosine for m in members.values()])
    observed = float(across_mean(gram, members))
    if not np.isfinite(observed):
        return {"controls": "undefined: fewer than two clusters"}
    return {
        "controls": observed,
        "controls.mean": float(values.mean()),
        "controls.largest": float(values.max()),
        "controls.p": float((1 + (values >= observed).sum()) / (1 + len(values))),
        "controls.smallest_p": 1.0 / (1 + len(values)),
        "controls.values": len(values),
    }


def _core(gram: Floats, data: Evidence, members: Members, share: Calibrated) -> dict[str, Leaf]:
    """Share of a common core with its interval, and the loadings behind it.

    The parts of clusters are free; with two members each they are not identified.
    """
    if share.estimate.value is None:
        return {"core": Estimate.undefined("undefined: needs at least three clusters")}
    order = [data.names[i] for indices in members.values() for i in indices]
    loadings = core_loadings(gram[None], members)[0].tolist()
    null, p = share.nulls["covariance"]
    high: Leaf = "undefined" if null.high is None else null.high
    return {"core": share.estimate, "core.null_high": high, "core.p": p} | {
        f"core.loading.{name}": loading for name, loading in zip(order, loadings, strict=True)
    }


def _coclustering(resampled: Floats, data: Evidence, rules: Geometry) -> dict[str, Leaf]:
    """How often two organisms share a cluster when the dendrogram is cut into as many."""
    k = len(data.clusters)
    if not 2 <= k <= len(data.names):
        return {"coclustering": "undefined: fewer than two clusters"}
    labels = trees.flat_labels(trees.agglomerate(trees.distances(resampled), rules.linkage), k)
    return {
        f"coclustering.{data.names[i]}__{data.names[j]}": float(
            (labels[:, i] == labels[:, j]).mean()
        )
        for i, j in combinations(range(len(data.names)), 2)
    }
