"""The whole battery as one function of Gram matrices, and a command for anybody's cosines.

    python -m em_geometry.geometry.battery cosines.csv --clusters a=x,y --clusters b=z,w --table

`battery` takes [..., n, n] for any n >= 3 and any clusters; leading axes are replicates and are
never looped over. Every statistic has the key under which metrics and claims know it: names are
joined by `__` in input order, dots are nesting, a part's first word is its id in METHOD.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations, permutations
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from em_geometry.errors import UserError
from em_geometry.geometry import clusters as trees
from em_geometry.geometry import pca, residual, similarity, subspace, triangle, verdict
from em_geometry.geometry.cluster_angle import cluster_angle
from em_geometry.geometry.cross_variance import explained_pct
from em_geometry.geometry.gram import Floats, angles_deg, pair_values, sub_grams, subsets
from em_geometry.geometry.inputs import parse_clusters, parse_norms, read_cosines
from em_geometry.geometry.orthogonality import span_projection
from em_geometry.geometry.pc1_ablation import ablated_cosines, changes, size_ratio, within_pairs
from em_geometry.geometry.projection import on_pair_means
from em_geometry.geometry.result import Battery
from em_geometry.geometry.table import battery_table
from em_geometry.project.command import run
from em_geometry.settings.sections import Geometry

Clusters = Mapping[str, Sequence[str]]
Members = Mapping[str, list[int]]

SINGLE = "undefined: the cluster has one member"
EQUAL = "undefined: the vectors are equal"
SMALL = f"undefined: a cosine is below {residual.MIN_ORIGINAL} or a residual vanishes"
FLAT = "undefined: the cosines do not vary"
CANCEL = "undefined: the vectors cancel"
NO_PAIR = "undefined: there is no such pair within or across clusters"
NO_FOCUS = "undefined: there are no two clusters to compare"
UNDECIDED = "undefined: the statistic of this test is undefined"


def battery(
    gram: Floats,
    names: Sequence[str],
    clusters: Clusters,
    thresholds: Geometry,
    norms: Floats | None = None,
) -> Battery:
    """All methods and tests of METHOD.md on Gram matrices of unit vectors.

    Args:
        gram: [..., n, n], unit diagonal, n >= 3.
        names: the n names, in order.
        clusters: cluster -> names; names may be in no cluster.
        thresholds: the decision rules, and the two clusters they compare (`focus`).
        norms: [..., n] lengths of the raw vectors, for the raw-norm variants.
    Raises:
        UserError: fewer than three vectors, or clusters that name no vector or share one.
    """
    members = cluster_indices(names, clusters)
    gram = np.asarray(gram, dtype=np.float64)
    raw = None if norms is None else gram * norms[..., :, None] * norms[..., None, :]
    found = Battery()
    _similarity(found, gram, names, members)
    _pairs_and_triplets(found, gram, names)
    centred = pca.components(pca.centred(gram))
    _pca(found, gram, centred, names)
    _clusters(found, gram, members, thresholds)
    _cluster_tests(found, gram, raw, names, members)
    _ablation(found, gram, centred, names, members)
    _verdicts(found, gram, members, thresholds)
    return found


def cluster_indices(names: Sequence[str], clusters: Clusters) -> dict[str, list[int]]:
    """Clusters as positions in `names`; UserError for unknown or repeated names."""
    if len(names) < 3:
        raise UserError(
            "the battery needs at least three vectors",
            found=", ".join(names),
            where="the vectors",
            expected="three names or more",
        )
    position = {name: i for i, name in enumerate(names)}
    taken: dict[str, str] = {}
    for cluster, listed in clusters.items():
        for name in listed:
            if name not in position or name in taken:
                raise UserError(
                    "a cluster names an unknown vector"
                    if name not in position
                    else f"a vector is in two clusters, or twice in one ({taken[name]})",
                    where=f"cluster {cluster}",
                    found=name,
                    expected="each once, of " + ", ".join(names),
                )
            taken[name] = cluster
        if not listed:
            raise UserError(
                "a cluster is empty",
                where=f"cluster {cluster}",
                found="no member",
                expected="names of vectors",
            )
    return {c: sorted(position[name] for name in listed) for c, listed in clusters.items()}


def _similarity(out: Battery, gram: Floats, names: Sequence[str], members: Members) -> None:
    values = pair_values(gram)
    for p, pair in enumerate(combinations(names, 2)):
        out.put(f"cosine.{'__'.join(pair)}", values[..., p])
        out.put(f"angle_deg.{'__'.join(pair)}", angles_deg(values[..., p]))
    for cluster, indices in members.items():
        out.put(f"similarity.within.{cluster}", similarity.within(gram, indices), SINGLE)
    for a, b in combinations(members, 2):
        out.put(f"similarity.cross.{a}__{b}", similarity.across(gram, members[a], members[b]))
    inside, outside = similarity.cluster_pairs(len(names), list(members.values()))
    undefined = np.full(gram.shape[:-2], np.nan)
    within, cross = (values[..., p].mean(-1) if p else undefined for p in (inside, outside))
    out.put("similarity.within_mean", within, NO_PAIR)
    out.put("similarity.cross_mean", cross, NO_PAIR)
    largest = values[..., outside].max(-1) if outside else undefined
    out.put("similarity.cross_max", largest, NO_PAIR)
    out.put("similarity.separation", within - cross, NO_PAIR)


def _pairs_and_triplets(out: Battery, gram: Floats, names: Sequence[str]) -> None:
    small = sub_grams(gram, subsets(len(names), 3))
    errors, volumes = triangle.planar_error(small), triangle.volume(small)
    singular, full, off = subspace.low_rank(small)
    cosines = residual.residual_cosines(small)
    reductions, drops = residual.reduction_pct(small, cosines), residual.mean_drop(small, cosines)
    for t, triplet in enumerate(combinations(names, 3)):
        name = "__".join(triplet)
        out.put(f"triangle.{name}.error_deg", errors[..., t])
        out.put(f"triangle.{name}.volume", volumes[..., t])
        for k in subspace.RANKS:
            out.put(f"subspace.{name}.rank{k}_r_full", full[..., t, k - 1], FLAT)
            out.put(f"subspace.{name}.rank{k}_r_offdiag", off[..., t, k - 1], FLAT)
        for k in (1, 2, 3):
            out.put(f"subspace.{name}.singular{k}", singular[..., t, k - 1])
        out.put(f"residual.{name}.reduction_pct", reductions[..., t], SMALL)
        out.put(f"residual.{name}.mean_drop", drops[..., t], EQUAL)
        for i, j in combinations(range(3), 2):
            key = f"residual.{name}.cosine.{triplet[i]}__{triplet[j]}"
            out.put(key, cosines[..., t, i, j], EQUAL)
    projections = on_pair_means(gram, subsets(len(names), 2))
    for p, pair in enumerate(combinations(names, 2)):
        for i, name in enumerate(names):
            out.put(f"projection.{'__'.join(pair)}.{name}", projections[..., p, i], CANCEL)


def _pca(out: Battery, gram: Floats, centred: pca.Components, names: Sequence[str]) -> None:
    for kind, found in (("centred", centred), ("uncentred", pca.components(gram))):
        shares = found.shares
        for k in range(len(names) - (kind == "centred")):
            out.put(f"pca.{kind}.pc{k + 1}_pct", 100.0 * shares[..., k], EQUAL)
        loadings = np.where(np.isfinite(shares[..., :1]), found.loadings[..., 0], np.nan)
        for i, name in enumerate(names):
            out.put(f"pca.{kind}.loading_pc1.{name}", loadings[..., i], EQUAL)


def _clusters(out: Battery, gram: Floats, members: Members, thresholds: Geometry) -> None:
    distance = trees.distances(gram)
    _, outside = similarity.cluster_pairs(gram.shape[-1], list(members.values()))
    for linkage in trees.LINKAGES:
        tree = trees.agglomerate(distance, linkage)
        for cluster, indices in members.items():
            inside = tree.cophenetic[..., indices, :][..., indices].max((-2, -1))
            height = inside if len(indices) > 1 else np.full_like(inside, np.nan)
            out.put(f"clusters.{linkage}.merge_{cluster}", height, SINGLE)
        if outside:
            low = pair_values(tree.cophenetic)[..., outside].min(-1)
            out.put(f"clusters.{linkage}.merge_last_low", low)
        out.put(f"clusters.{linkage}.cophenetic_r", trees.cophenetic_r(distance, tree), FLAT)
        if linkage == thresholds.linkage:
            widths = trees.silhouettes(distance, tree)
            out.put("clusters.silhouette_k", widths.argmax(-1) + 2.0)
            out.put("clusters.silhouette", widths.max(-1))


def _cluster_tests(
    out: Battery, gram: Floats, raw: Floats | None, names: Sequence[str], members: Members
) -> None:
    variants = {"": gram} if raw is None else {"": gram, "raw_": raw}
    for a, b in combinations(members, 2):
        for label, matrix in variants.items():
            angle = cluster_angle(matrix, members[a], members[b])
            out.put(f"cluster_angle.{a}__{b}_{label}deg", angle, CANCEL)
    for a, b in permutations(members, 2):
        lengths = span_projection(gram, members[a], members[b])
        for i, index in enumerate(members[a]):
            key = f"orthogonality.{a}_on_{b}.{names[index]}"
            out.put(f"{key}.magnitude", lengths[..., i])
            out.put(f"{key}.variance_pct", 100.0 * lengths[..., i] ** 2)
        few = min(len(members[a]), len(members[b])) < 2
        for label, matrix in variants.items():
            for kind in ("uncentred", "centred"):
                centre = kind == "centred"
                share = explained_pct(matrix, members[a], members[b], centre=centre)
                key = f"cross_variance.{a}_pc1_in_{b}.{kind}_{label}pct"
                out.put(key, share, SINGLE if few else EQUAL)


def _ablation(
    out: Battery, gram: Floats, centred: pca.Components, names: Sequence[str], members: Members
) -> None:
    after, pairs = ablated_cosines(gram, centred), within_pairs(members)
    change = changes(gram, after, pairs)
    for p, (i, j) in enumerate(pairs):
        out.put(f"pc1_ablation.{names[i]}__{names[j]}.after", after[..., i, j], EQUAL)
        out.put(f"pc1_ablation.{names[i]}__{names[j]}.change", change[..., p], EQUAL)
    mean = np.abs(change).mean(-1) if pairs else np.full(gram.shape[:-2], np.nan)
    none = EQUAL if pairs else "undefined: no cluster has two members"
    out.put("pc1_ablation.mean_abs_change", mean, none)
    few = "undefined: there are no two pairs within clusters, or a cosine does not change"
    out.put("pc1_ablation.ratio", size_ratio(change), few)


def _verdicts(out: Battery, gram: Floats, members: Members, thresholds: Geometry) -> None:
    found = verdict.statistics(gram, members, thresholds)
    decided = verdict.decide(found, thresholds)
    none = NO_FOCUS if len(members) < 2 else UNDECIDED
    for test in verdict.TESTS:
        out.put(f"statistic.{test}", found[test], none)
    for test in verdict.TESTS:
        out.put(f"verdict.{test}", decided[test], none)
    out.put("verdict.count", verdict.count(decided.values()), none)


def cli(
    cosines: Annotated[Path, typer.Argument(help="CSV with a header of names, or JSON.")],
    more: Annotated[list[str] | None, typer.Argument(help="Further clusters.")] = None,
    clusters: Annotated[list[str] | None, typer.Option(help="name=member,member")] = None,
    norms: Annotated[
        str | None, typer.Option(help="Raw norms in the file's order: 1.2,0.9")
    ] = None,
    focus: Annotated[str | None, typer.Option(help="Clusters to compare: a,b")] = None,
    table: Annotated[bool, typer.Option("--table", help="Print tables, not JSON.")] = False,
) -> None:
    """Run the battery on a matrix of cosines and print every statistic."""
    names, gram = read_cosines(cosines)
    thresholds = Geometry().model_copy(update={"focus": focus.split(",") if focus else []})
    found = battery(
        gram,
        names,
        parse_clusters([*(clusters or []), *(more or [])]),
        thresholds,
        parse_norms(norms, len(names)) if norms else None,
    )
    print(battery_table(names, found.flat()) if table else json.dumps(found.metrics(), indent=1))


if __name__ == "__main__":
    run(cli)
