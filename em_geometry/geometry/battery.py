"""The whole battery as one function of vectors or of Gram matrices (docs/method.md: geometry).

    from safetensors.numpy import load_file
    from em_geometry.geometry import battery

    print(battery(load_file("vectors.safetensors"), {"a": ["x", "y"], "b": ["z", "w"]}))

Every statistic has the key under which results and claims know it: names are joined by `__` in
input order, dots are nesting, a part's first word is its id in docs/method.md. Leading axes of
Gram matrices are replicates and are never looped over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, permutations
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from em_geometry.errors import UserError
from em_geometry.geometry import five_tests, methods, trees
from em_geometry.geometry.gram import angles_deg, pair_values, sub_grams, subsets, unit_gram
from em_geometry.io.tables import text_table
from em_geometry.settings import Geometry
from em_geometry.stats.arrays import Floats

Clusters: TypeAlias = Mapping[str, Sequence[str]]
Members: TypeAlias = Mapping[str, list[int]]
Vectors: TypeAlias = Mapping[str, npt.ArrayLike]

DEFAULTS = Geometry()
COUNTS = ("verdict.count", "clusters.silhouette_k")
SINGLE = "undefined: the cluster has one member"
EQUAL = "undefined: the vectors are equal"
SMALL = f"undefined: a cosine is below {methods.MIN_ORIGINAL} or a residual vanishes"
FLAT = "undefined: the cosines do not vary"
CANCEL = "undefined: the vectors cancel"
NO_PAIR = "undefined: there is no such pair within or across clusters"
NO_FOCUS = "undefined: there are no two clusters to compare"
UNDECIDED = "undefined: the statistic of this test is undefined"
TRIPLET = {
    "planar error": "triangle.{}.error_deg",
    "volume": "triangle.{}.volume",
    "reduction %": "residual.{}.reduction_pct",
    "mean drop": "residual.{}.mean_drop",
    "rank 1 r": "subspace.{}.rank1_r_full",
    "off-diag.": "subspace.{}.rank1_r_offdiag",
}
SHOWN = (
    "cluster_angle.",
    "orthogonality.",
    "cross_variance.",
    "pc1_ablation.",
    "pca.",
    "clusters.",
)


@dataclass
class Battery:
    """All statistics of the battery; `print` shows those of one set of vectors.

    Attributes:
        names: of the vectors.
        values: key -> [...], NaN where undefined.
        reasons: key -> why it can be undefined.
    """

    names: Sequence[str]
    values: dict[str, Floats] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def put(self, key: str, value: Floats, reason: str = "undefined") -> None:
        self.values[key] = value
        self.reasons[key] = reason

    def flat(self) -> dict[str, float | int | str]:
        """One Gram matrix's results by key; undefined ones are strings that say why."""
        return {key: self._plain(key, float(value)) for key, value in self.values.items()}

    def _plain(self, key: str, value: float) -> float | int | str:
        if not np.isfinite(value):
            return self.reasons[key]
        if key.startswith("verdict.test"):
            return five_tests.WORDS[value]
        return int(value) if key in COUNTS else value

    def __str__(self) -> str:
        """Cosines, verdicts, cluster statistics and triplets as aligned tables."""
        flat, names = self.flat(), self.names
        cosine: list[list[object]] = [
            [a, *(1.0 if a == b else self._cosine(flat, a, b) for b in names)] for a in names
        ]
        verdicts = [
            [t, five_tests.QUESTIONS[t], flat[f"statistic.{t}"], flat[f"verdict.{t}"]]
            for t in five_tests.TESTS
        ]
        shown = [[key, value] for key, value in flat.items() if key.startswith(SHOWN)]
        triplets = ["__".join(triplet) for triplet in combinations(names, 3)]
        rows = [[t, *(flat[key.format(t)] for key in TRIPLET.values())] for t in triplets]
        return "\n\n".join(
            [
                text_table(["", *names], cosine),
                text_table(["", "statistic", "value", "the paper's rule says"], verdicts)
                + f"\nfor independence: {flat['verdict.count']}",
                text_table(["statistic", "value"], shown),
                text_table(["triplet", *TRIPLET], rows),
            ]
        )

    def _cosine(self, flat: Mapping[str, object], a: str, b: str) -> object:
        key = f"cosine.{a}__{b}"
        return flat[key] if key in flat else flat[f"cosine.{b}__{a}"]


def battery(
    vectors: Vectors | Floats,
    clusters: Clusters | None = None,
    rules: Geometry = DEFAULTS,
    *,
    names: Sequence[str] = (),
    norms: Floats | None = None,
) -> Battery:
    """All methods and tests on vectors, or on Gram matrices of unit vectors.

    Args:
        vectors: name -> vector [width] of any length; or Gram matrices [..., n, n] with unit
            diagonal, which need `names`.
        clusters: cluster -> names; names may be in no cluster. None: no clusters.
        rules: the decision rules, and the two clusters they compare (`focus`).
        names: of the rows of Gram matrices, in order.
        norms: [..., n] lengths of the raw vectors, for the raw-norm variants; known for vectors.
    Raises:
        UserError: fewer than two vectors, vectors of different widths or without length, or
            clusters that name no vector or share one.
    """
    if isinstance(vectors, Mapping):
        rows = vector_rows(vectors)
        names, gram, norms = list(vectors), unit_gram(rows), np.linalg.norm(rows, axis=-1)
    else:
        gram = np.asarray(vectors, dtype=np.float64)
    members = cluster_indices(names, clusters or {})
    raw = None if norms is None else gram * norms[..., :, None] * norms[..., None, :]
    found = Battery(names)
    _similarity(found, gram, names, members)
    _pairs_and_triplets(found, gram, names)
    centred = methods.components(methods.centred(gram))
    _pca(found, gram, centred, names)
    _clusters(found, gram, members, rules)
    _cluster_tests(found, gram, raw, names, members)
    _ablation(found, gram, centred, names, members)
    _verdicts(found, gram, members, rules)
    return found


def vector_rows(vectors: Vectors) -> Floats:
    """Vectors by name as rows [n, width]; UserError for what is no set of vectors."""
    rows = {name: np.asarray(vector, dtype=np.float64) for name, vector in vectors.items()}
    for name, row in rows.items():
        first = next(iter(rows.values()))
        if row.ndim != 1 or row.shape != first.shape or not np.isfinite(row).all() or not row.any():
            raise UserError(
                "not vectors of one width, finite and of some length",
                where=name,
                found=f"shape {row.shape}, {int(np.isfinite(row).sum())} finite entries, "
                f"{np.count_nonzero(row)} not zero",
                expected=f"shape ({first.shape[-1] if first.ndim else 0},), as the first has",
            )
    return np.stack(list(rows.values())) if rows else np.empty((0, 0))


def cluster_indices(names: Sequence[str], clusters: Clusters) -> dict[str, list[int]]:
    """Clusters as positions in `names`; UserError for unknown or repeated names."""
    if len(names) < 2:
        raise UserError(
            "the battery needs at least two vectors",
            found=", ".join(names) or "none",
            where="the vectors",
            expected="two names or more",
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
        out.put(f"similarity.within.{cluster}", methods.within(gram, indices), SINGLE)
    for a, b in combinations(members, 2):
        out.put(f"similarity.cross.{a}__{b}", methods.across(gram, members[a], members[b]))
    inside, outside = methods.cluster_pairs(len(names), list(members.values()))
    undefined = np.full(gram.shape[:-2], np.nan)
    within, cross = (values[..., p].mean(-1) if p else undefined for p in (inside, outside))
    out.put("similarity.within_mean", within, NO_PAIR)
    out.put("similarity.cross_mean", cross, NO_PAIR)
    largest = values[..., outside].max(-1) if outside else undefined
    out.put("similarity.cross_max", largest, NO_PAIR)
    out.put("similarity.separation", within - cross, NO_PAIR)


def _pairs_and_triplets(out: Battery, gram: Floats, names: Sequence[str]) -> None:
    small = sub_grams(gram, subsets(len(names), 3))
    errors, volumes = methods.planar_error(small), methods.volume(small)
    singular, full, off = methods.low_rank(small)
    cosines = methods.residual_cosines(small)
    reductions, drops = methods.reduction_pct(small, cosines), methods.mean_drop(small, cosines)
    for t, triplet in enumerate(combinations(names, 3)):
        name = "__".join(triplet)
        out.put(f"triangle.{name}.error_deg", errors[..., t])
        out.put(f"triangle.{name}.volume", volumes[..., t])
        for k in methods.RANKS:
            out.put(f"subspace.{name}.rank{k}_r_full", full[..., t, k - 1], FLAT)
            out.put(f"subspace.{name}.rank{k}_r_offdiag", off[..., t, k - 1], FLAT)
        for k in (1, 2, 3):
            out.put(f"subspace.{name}.singular{k}", singular[..., t, k - 1])
        out.put(f"residual.{name}.reduction_pct", reductions[..., t], SMALL)
        out.put(f"residual.{name}.mean_drop", drops[..., t], EQUAL)
        for i, j in combinations(range(3), 2):
            key = f"residual.{name}.cosine.{triplet[i]}__{triplet[j]}"
            out.put(key, cosines[..., t, i, j], EQUAL)
    projections = methods.on_pair_means(gram, subsets(len(names), 2))
    for p, pair in enumerate(combinations(names, 2)):
        for i, name in enumerate(names):
            out.put(f"projection.{'__'.join(pair)}.{name}", projections[..., p, i], CANCEL)


def _pca(out: Battery, gram: Floats, centred: methods.Components, names: Sequence[str]) -> None:
    for kind, found in (("centred", centred), ("uncentred", methods.components(gram))):
        shares = found.shares
        for k in range(len(names) - (kind == "centred")):
            out.put(f"pca.{kind}.pc{k + 1}_pct", 100.0 * shares[..., k], EQUAL)
        loadings = np.where(np.isfinite(shares[..., :1]), found.loadings[..., 0], np.nan)
        for i, name in enumerate(names):
            out.put(f"pca.{kind}.loading_pc1.{name}", loadings[..., i], EQUAL)


def _clusters(out: Battery, gram: Floats, members: Members, rules: Geometry) -> None:
    distance = trees.distances(gram)
    _, outside = methods.cluster_pairs(gram.shape[-1], list(members.values()))
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
        if linkage == rules.linkage and gram.shape[-1] > 2:
            widths = trees.silhouettes(distance, tree)
            out.put("clusters.silhouette_k", widths.argmax(-1) + 2.0)
            out.put("clusters.silhouette", widths.max(-1))


def _cluster_tests(
    out: Battery, gram: Floats, raw: Floats | None, names: Sequence[str], members: Members
) -> None:
    variants = {"": gram} if raw is None else {"": gram, "raw_": raw}
    for a, b in combinations(members, 2):
        for label, matrix in variants.items():
            angle = methods.cluster_angle(matrix, members[a], members[b])
            out.put(f"cluster_angle.{a}__{b}_{label}deg", angle, CANCEL)
    for a, b in permutations(members, 2):
        lengths = methods.span_projection(gram, members[a], members[b])
        for i, index in enumerate(members[a]):
            key = f"orthogonality.{a}_on_{b}.{names[index]}"
            out.put(f"{key}.magnitude", lengths[..., i])
            out.put(f"{key}.variance_pct", 100.0 * lengths[..., i] ** 2)
        few = min(len(members[a]), len(members[b])) < 2
        for label, matrix in variants.items():
            for kind in ("uncentred", "centred"):
                centre = kind == "centred"
                share = methods.explained_pct(matrix, members[a], members[b], centre=centre)
                key = f"cross_variance.{a}_pc1_in_{b}.{kind}_{label}pct"
                out.put(key, share, SINGLE if few else EQUAL)


def _ablation(
    out: Battery, gram: Floats, centred: methods.Components, names: Sequence[str], members: Members
) -> None:
    after, pairs = methods.ablated_cosines(gram, centred), methods.within_pairs(members)
    change = methods.changes(gram, after, pairs)
    for p, (i, j) in enumerate(pairs):
        out.put(f"pc1_ablation.{names[i]}__{names[j]}.after", after[..., i, j], EQUAL)
        out.put(f"pc1_ablation.{names[i]}__{names[j]}.change", change[..., p], EQUAL)
    mean = np.abs(change).mean(-1) if pairs else np.full(gram.shape[:-2], np.nan)
    none = EQUAL if pairs else "undefined: no cluster has two members"
    out.put("pc1_ablation.mean_abs_change", mean, none)
    few = "undefined: there are no two pairs within clusters, or a cosine does not change"
    out.put("pc1_ablation.ratio", methods.size_ratio(change), few)


def _verdicts(out: Battery, gram: Floats, members: Members, rules: Geometry) -> None:
    found = five_tests.statistics(gram, members, rules)
    decided = five_tests.decide(found, rules)
    none = NO_FOCUS if len(members) < 2 else UNDECIDED
    for test in five_tests.TESTS:
        out.put(f"statistic.{test}", found[test], none)
    for test in five_tests.TESTS:
        out.put(f"verdict.{test}", decided[test], none)
    out.put("verdict.count", five_tests.count(decided.values()), none)
