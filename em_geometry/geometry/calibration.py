"""Every statistic of the battery with its interval and its nulls (METHOD.md: calibration).

Nulls: `covariance` - the vectors are draws from N(0, Sigma), Sigma the covariance of the rows
behind them - with and without massive-activation dimensions; `flips` - no organism has a consistent
difference (signs flipped, or labels of answers shuffled); `partitions` - the cluster labels mean
nothing; `controls` - organisms are no more alike than each is like a benignly fine-tuned control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from em_geometry.geometry import clusters as trees
from em_geometry.geometry import power, resampling
from em_geometry.geometry.battery import Clusters, battery, cluster_indices
from em_geometry.geometry.core_share import core_loadings, core_share
from em_geometry.geometry.gram import Floats, Ints, cosines, unit_gram
from em_geometry.geometry.p_values import interval, p_value, partition_p
from em_geometry.geometry.samples import Sample
from em_geometry.geometry.similarity import across_mean
from em_geometry.io.files import nest
from em_geometry.settings.sections import Geometry

CORE = "core.share"
SHOWN = (
    "cosine.",
    "similarity.",
    "cluster_angle.",
    "orthogonality.",
    "cross_variance.",
    "statistic.",
    "pca.centred.pc1_pct",
    "pc1_ablation.mean_abs_change",
)
LABELLED = (  # what the labels of clusters decide; the keys name no vectors
    "similarity.",
    "cluster_angle.",
    "cross_variance.",
    "statistic.",
    "pc1_ablation.mean_abs_change",
)


@dataclass(frozen=True)
class Measured:
    """The measured vectors, and what calibrates them.

    Attributes:
        names: organisms in order.
        clusters: cluster -> organisms.
        sample: their vectors and the rows behind them.
        controls: [c, width] vectors of the aligned controls, made the same way.
        massive: dimensions of massive activations.
    """

    names: list[str]
    clusters: dict[str, list[str]]
    sample: Sample
    controls: Floats
    massive: Ints


@dataclass(frozen=True)
class Calibration:
    """Results: metrics, the power sweep, and the table of plots/nulls.csv."""

    metrics: dict[str, Any]
    sweep: power.Sweep
    nulls: tuple[list[str], list[list[object]]]


def calibrate(data: Measured, rules: Geometry, seed: int) -> Calibration:
    """The whole calibration of one choice of contrast, span and block."""

    def rng(name: str) -> np.random.Generator:
        return resampling.stream(seed, "calibration", name)

    def found(grams: Floats) -> dict[str, Floats]:
        return calibrated(cosines(grams), data.names, data.clusters, rules)

    count = rules.replicates
    members = cluster_indices(data.names, data.clusters)
    sample, gram = data.sample, unit_gram(data.sample.vectors)
    residuals = sample.residuals
    spectra = {
        "covariance": resampling.spectrum(residuals),
        "covariance_without_massive": resampling.spectrum(
            np.delete(residuals, data.massive, axis=-1)
        ),
    }
    nulls = {
        name: found(resampling.covariance_draws(rng(name), values, count, len(gram)))
        for name, values in spectra.items()
    }
    nulls["flips"] = found(sample.without_effect(rng("flips"), count))
    resampled = sample.bootstrap(rng("bootstrap"), count)
    boot = found(resampled)
    split, agreement = sample.halves(rng("halves"), count)
    halves = found(split)
    moved = found(relabelled(gram, members, count, rng("partitions")))
    table = {
        key: table_row(key, value, interval(boot[key]), nulls, moved) | _half(value, halves[key])
        for key, value in found(gram).items()
    }
    dimensions = {name: resampling.effective_dimension(v) for name, v in spectra.items()}
    tightness = power.tightness_of(gram, members)
    effective = max(2, round(dimensions["covariance"]))
    sweep, full = (
        power.sweep(rng(f"power.{d}"), count, d, len(gram), members, tightness, rules)
        for d in (effective, residuals.shape[-1])
    )
    metrics: dict[str, Any] = {
        "rows": sample.rows,
        "topics": sample.topics,
        "replicates": count,
        "width": residuals.shape[-1],
        "effective_dimension": dimensions,
        "massive_dimensions": len(data.massive),
        "reliability": dict(zip(data.names, agreement.mean(0).tolist(), strict=True)),
        "statistic": nest(table),
        "controls": controls_null(data, gram, members),
        "core": _core(gram, data, members, table[CORE]),
        "coclustering": _coclustering(cosines(resampled), data, rules),
        "dimension_needed": power.dimensions_needed(gram, members),
        "power": power.verdicts_of(sweep),
        "power_full_width": power.verdicts_of(full),
    }
    return Calibration(metrics, sweep, _nulls_table(table, list(nulls)))


def calibrated(
    grams: Floats, names: Sequence[str], clusters: Clusters, rules: Geometry
) -> dict[str, Floats]:
    """The statistics that are calibrated: key -> [...], from cosines [..., n, n]."""
    found = battery(grams, names, clusters, rules).values
    kept = {k: v for k, v in found.items() if k.startswith(SHOWN)}
    flat = grams.reshape(-1, *grams.shape[-2:])
    share = core_share(flat, cluster_indices(names, clusters))
    return kept | {CORE: share.reshape(grams.shape[:-2])}


def relabelled(
    gram: Floats, members: Mapping[str, Sequence[int]], limit: int, rng: np.random.Generator
) -> Floats:
    """Cosines [m, n, n] with the vectors in the places of each other label assignment."""
    orders = resampling.partitions(list(members.values()), len(gram), limit, rng)
    return gram[orders[:, :, None], orders[:, None, :]]


def table_row(
    key: str,
    value: Floats,
    known: Mapping[str, Any],
    nulls: Mapping[str, Mapping[str, Floats]],
    moved: Mapping[str, Floats],
) -> dict[str, Any]:
    """One line of the table: observed value, how well it is known, and every null."""
    observed = float(value)
    if not np.isfinite(observed):
        return {"status": "undefined for these vectors"}
    row: dict[str, Any] = {"observed": observed} | dict(known)
    for name, found in nulls.items():
        row[name] = interval(found[key]) | {"p": p_value(observed, found[key])}
    if key.startswith(LABELLED):
        row["partitions"] = partition_p(observed, moved[key])
    return row


def _half(value: Floats, halves: Floats) -> dict[str, Any]:
    """Median difference between random halves of the topics."""
    apart = np.abs(halves[0] - halves[1])
    defined = apart[np.isfinite(apart)]
    if not np.isfinite(value):
        return {}
    middle = float(np.median(defined)) if defined.size else "undefined: in no half of the topics"
    return {"half_difference": middle}


def controls_null(
    data: Measured, gram: Floats, members: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """Mean cosine across clusters against cosines of organisms with aligned controls.

    The null values are the mean cosines of each control with each cluster; they are few, so the
    smallest p that they can give stands beside p.
    """
    if len(data.controls) == 0:
        return {"status": "undefined: no controls"}
    vectors = np.concatenate([data.sample.vectors, data.controls])
    cosine = unit_gram(vectors)[len(data.names) :, : len(data.names)]
    values = np.array([row[list(m)].mean() for row in cosine for m in members.values()])
    observed = float(across_mean(gram, members))
    if not np.isfinite(observed):
        return {"status": "undefined: fewer than two clusters"}
    return {
        "observed": observed,
        "mean": float(values.mean()),
        "largest": float(values.max()),
        "p": float((1 + (values >= observed).sum()) / (1 + len(values))),
        "smallest_p": 1.0 / (1 + len(values)),
        "values": len(values),
    }


def _core(
    gram: Floats, data: Measured, members: Mapping[str, Sequence[int]], row: Mapping[str, Any]
) -> dict[str, Any]:
    """Share of a common core with its interval, and the loadings behind it."""
    if "status" in row:
        return {"status": "undefined: needs at least three clusters"}
    order = [data.names[i] for indices in members.values() for i in indices]
    loadings = core_loadings(gram[None], members)[0]
    return {
        **{key: row[key] for key in ("observed", "low", "high", "status") if key in row},
        "null_high": row["covariance"].get("high", "undefined"),
        "p": row["covariance"]["p"],
        "loading": dict(zip(order, loadings.tolist(), strict=True)),
        "note": "cluster parts are free; with two members each they are not identified",
    }


def _coclustering(resampled: Floats, data: Measured, rules: Geometry) -> dict[str, Any]:
    """How often two organisms share a cluster when the dendrogram is cut into as many."""
    k = len(data.clusters)
    if not 2 <= k <= len(data.names):
        return {"status": "undefined: fewer than two clusters"}
    labels = trees.flat_labels(trees.agglomerate(trees.distances(resampled), rules.linkage), k)
    pairs = combinations(range(len(data.names)), 2)
    return {
        f"{data.names[i]}__{data.names[j]}": float((labels[:, i] == labels[:, j]).mean())
        for i, j in pairs
    }


def _nulls_table(
    table: Mapping[str, Mapping[str, Any]], nulls: Sequence[str]
) -> tuple[list[str], list[list[object]]]:
    """Header and rows of plots/nulls.csv: a line a statistic; empty where undefined."""
    parts = ("low", "median", "high", "p")
    header = ["statistic", "observed", "low", "high"]
    header += [f"{name}_{part}" for name in nulls for part in parts]
    header += ["partitions_p", "partitions_smallest_p"]
    rows: list[list[object]] = []
    for key, row in table.items():
        line: list[object] = [key, *(row.get(part, "") for part in header[1:4])]
        line += [row.get(name, {}).get(part, "") for name in nulls for part in parts]
        line += [row.get("partitions", {}).get(part, "") for part in ("p", "smallest_p")]
        rows.append([line[0], *(cell if isinstance(cell, float) else "" for cell in line[1:])])
    return header, rows
