"""The whole battery as one function of vectors or of Gram matrices (docs/method.md: geometry).

    from safetensors.numpy import load_file
    from em_geometry.geometry import battery

    print(battery(load_file("vectors.safetensors"), {"a": ["x", "y"], "b": ["z", "w"]}))

Every statistic has the key under which results and claims know it: names are joined by `__` in
input order, dots are nesting, a part's first word is its id in docs/method.md. Leading axes of
Gram matrices are replicates and are never looped over.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, permutations
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from em_geometry.geometry import methods as m
from em_geometry.geometry import trees
from em_geometry.geometry.vector_sets import cluster_indices, vector_rows
from em_geometry.io.tables import text_table
from em_geometry.settings import Geometry
from em_geometry.stats.estimate import Floats

Clusters: TypeAlias = Mapping[str, Sequence[str]]
Vectors: TypeAlias = Mapping[str, npt.ArrayLike]
Found: TypeAlias = Iterator[tuple[str, Floats, str]]  # key, values [...], why it may be undefined

DEFAULTS = Geometry()
COUNTS = ("verdict.count", "clusters.silhouette_k")
ANY = "undefined"
SINGLE = "undefined: the cluster has one member"
EQUAL = "undefined: the vectors are equal"
SMALL = f"undefined: a cosine is below {m.MIN_ORIGINAL} or a residual vanishes"
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
SHOWN = ("cluster_angle", "orthogonality", "cross_variance", "pc1_ablation", "pca", "clusters")


@dataclass(frozen=True)
class Case:
    """What the parts of the battery are functions of."""

    gram: Floats  # [..., n, n] cosines
    names: Sequence[str]
    members: m.Members
    rules: Geometry
    raw: Floats | None = None  # inner products of the raw vectors, where lengths are known


def _similarity(case: Case) -> Found:
    values = m.pair_values(case.gram)
    for p, (a, b) in enumerate(combinations(case.names, 2)):
        yield f"cosine.{a}__{b}", values[..., p], ANY
        yield f"angle_deg.{a}__{b}", m.angles_deg(values[..., p]), ANY
    for cluster, indices in case.members.items():
        yield f"similarity.within.{cluster}", m.within(case.gram, indices), SINGLE
    for a, b in combinations(case.members, 2):
        cross = m.block(case.gram, case.members[a], case.members[b]).mean((-2, -1))
        yield f"similarity.cross.{a}__{b}", cross, ANY
    inside, outside = m.cluster_pairs(len(case.names), case.members)
    within, across = m.mean(values[..., inside]), m.mean(values[..., outside])
    yield "similarity.within_mean", within, NO_PAIR
    yield "similarity.cross_mean", across, NO_PAIR
    largest = values[..., outside].max(-1) if outside else across
    yield "similarity.cross_max", largest, NO_PAIR
    yield "similarity.separation", within - across, NO_PAIR


def _triplets(case: Case) -> Found:
    small = m.sub_grams(case.gram, 3)
    errors = m.planar_error(small)
    volumes = np.sqrt(np.maximum(np.linalg.det(small), 0.0))  # 0 in a plane, 1 at right angles
    singular, full, off = m.low_rank(small)
    cosines = m.residual_cosines(small)
    reductions = m.reduction_pct(small, cosines)
    left = m.pair_values(cosines)
    drops = m.pair_values(small).mean(-1) - left.mean(-1)
    for t, triplet in enumerate(combinations(case.names, 3)):
        name = "__".join(triplet)
        yield f"triangle.{name}.error_deg", errors[..., t], ANY
        yield f"triangle.{name}.volume", volumes[..., t], ANY
        for k, rank in enumerate(m.RANKS):
            yield f"subspace.{name}.rank{rank}_r_full", full[..., t, k], FLAT
            yield f"subspace.{name}.rank{rank}_r_offdiag", off[..., t, k], FLAT
        for k in range(3):
            yield f"subspace.{name}.singular{k + 1}", singular[..., t, k], ANY
        yield f"residual.{name}.reduction_pct", reductions[..., t], SMALL
        yield f"residual.{name}.mean_drop", drops[..., t], EQUAL
        for p, (a, b) in enumerate(combinations(triplet, 2)):
            yield f"residual.{name}.cosine.{a}__{b}", left[..., t, p], EQUAL


def _projections(case: Case) -> Found:
    projections = m.on_pair_means(case.gram)
    for p, (a, b) in enumerate(combinations(case.names, 2)):
        for i, name in enumerate(case.names):
            yield f"projection.{a}__{b}.{name}", projections[..., p, i], CANCEL


def _pca(case: Case) -> Found:
    for kind, gram in (("centred", m.centred(case.gram)), ("uncentred", case.gram)):
        variances, loadings = m.components(gram)
        parts = m.shares(variances)
        for k in range(len(case.names) - (kind == "centred")):
            yield f"pca.{kind}.pc{k + 1}_pct", 100.0 * parts[..., k], EQUAL
        first = np.where(np.isfinite(parts[..., :1]), loadings[..., 0], np.nan)
        for i, name in enumerate(case.names):
            yield f"pca.{kind}.loading_pc1.{name}", first[..., i], EQUAL


def _clusters(case: Case) -> Found:
    distance, n = trees.distances(case.gram), len(case.names)
    _, outside = m.cluster_pairs(n, case.members)
    for linkage in trees.LINKAGES:
        heights = trees.heights(distance, linkage)
        for cluster, indices in case.members.items():
            inside, _ = m.cluster_pairs(n, {cluster: indices})
            height = heights[..., inside].max(-1) if inside else np.full(heights.shape[:-1], np.nan)
            yield f"clusters.{linkage}.merge_{cluster}", height, SINGLE
        if outside:
            yield f"clusters.{linkage}.merge_last_low", heights[..., outside].min(-1), ANY
        r = m.pearson(m.pair_values(distance), heights)
        yield f"clusters.{linkage}.cophenetic_r", r, FLAT
        if linkage == case.rules.linkage and n > 2:
            widths = trees.silhouettes(distance, linkage)
            yield "clusters.silhouette_k", widths.argmax(-1) + 2.0, ANY
            yield "clusters.silhouette", widths.max(-1), ANY


def _cluster_tests(case: Case) -> Found:
    gram, members = case.gram, case.members
    variants = {"": gram} if case.raw is None else {"": gram, "raw_": case.raw}
    for a, b in combinations(members, 2):
        for label, matrix in variants.items():
            angle = m.cluster_angle(matrix, members[a], members[b])
            yield f"cluster_angle.{a}__{b}_{label}deg", angle, CANCEL
    for a, b in permutations(members, 2):
        lengths = m.span_projection(gram, members[a], members[b])
        for i, index in enumerate(members[a]):
            key = f"orthogonality.{a}_on_{b}.{case.names[index]}"
            yield f"{key}.magnitude", lengths[..., i], ANY
            yield f"{key}.variance_pct", 100.0 * lengths[..., i] ** 2, ANY
        why = SINGLE if min(len(members[a]), len(members[b])) < 2 else EQUAL
        for label, matrix in variants.items():
            for kind in ("uncentred", "centred"):
                pair = (members[a], members[b])
                share = m.explained_pct(matrix, *pair, centre=kind == "centred")
                yield f"cross_variance.{a}_pc1_in_{b}.{kind}_{label}pct", share, why


def _ablation(case: Case) -> Found:
    after = m.ablated_cosines(case.gram)
    change = m.changes(case.gram, after, case.members)
    inside, _ = m.cluster_pairs(len(case.names), case.members)
    pairs = list(combinations(case.names, 2))
    for c, p in enumerate(inside):
        a, b = pairs[p]
        yield f"pc1_ablation.{a}__{b}.after", m.pair_values(after)[..., p], EQUAL
        yield f"pc1_ablation.{a}__{b}.change", change[..., c], EQUAL
    why = EQUAL if inside else "undefined: no cluster has two members"
    yield "pc1_ablation.mean_abs_change", m.mean(np.abs(change)), why
    why = "undefined: there are no two pairs within clusters, or a cosine does not change"
    yield "pc1_ablation.ratio", m.size_ratio(change), why


def _verdicts(case: Case) -> Found:
    found = m.statistics(case.gram, case.members, case.rules)
    decided = m.decide(found, case.rules)
    why = NO_FOCUS if len(case.members) < 2 else UNDECIDED
    for test, value in found.items():
        yield f"statistic.{test}", value, why
    for test, code in decided.items():
        yield f"verdict.{test}", code, why
    yield "verdict.count", m.count(decided.values()), why


MAIN_PARTS = (_similarity, _pca, _cluster_tests, _ablation, _verdicts)  # those with nulls
PARTS = (
    _similarity,
    _triplets,
    _projections,
    _pca,
    _clusters,
    _cluster_tests,
    _ablation,
    _verdicts,
)


@dataclass(frozen=True)
class Battery:
    """All statistics of the battery; `print` shows those of one set of vectors."""

    names: Sequence[str]
    values: dict[str, Floats]  # key -> [...], NaN where undefined
    reasons: dict[str, str]  # key -> why it can be undefined

    def flat(self) -> dict[str, float | int | str]:
        """One Gram matrix's results by key; undefined ones are strings that say why."""
        return {key: self._plain(key, float(value)) for key, value in self.values.items()}

    def _plain(self, key: str, value: float) -> float | int | str:
        if not np.isfinite(value):
            return self.reasons[key]
        if key.startswith("verdict.test"):
            return m.VERDICTS[value]
        return int(value) if key in COUNTS else value

    def __str__(self) -> str:
        """Cosines, verdicts, cluster statistics and triplets as aligned tables."""
        flat, names = self.flat(), self.names
        cosines: dict[tuple[str, str], object] = {(name, name): 1.0 for name in names}
        for a, b in combinations(names, 2):
            cosines[a, b] = cosines[b, a] = flat[f"cosine.{a}__{b}"]
        verdicts = [
            [t, question, flat[f"statistic.{t}"], flat[f"verdict.{t}"]]
            for t, question in m.QUESTIONS.items()
        ]
        shown = [[key, value] for key, value in flat.items() if key.partition(".")[0] in SHOWN]
        triplets = ["__".join(triplet) for triplet in combinations(names, 3)]
        rows = [[t, *(flat[key.format(t)] for key in TRIPLET.values())] for t in triplets]
        return "\n\n".join(
            [
                text_table(["", *names], [[a, *(cosines[a, b] for b in names)] for a in names]),
                text_table(["", "statistic", "value", "the paper's rule says"], verdicts)
                + f"\nfor independence: {flat['verdict.count']} (`calibrate` says how many "
                "random vectors reach)",
                text_table(["statistic", "value"], shown),
                text_table(["triplet", *TRIPLET], rows),
            ]
        )


def evaluate(case: Case, parts: Sequence[Callable[[Case], Found]] = PARTS) -> Battery:
    """These parts of the battery."""
    found = Battery(case.names, {}, {})
    for key, value, reason in chain.from_iterable(part(case) for part in parts):
        found.values[key], found.reasons[key] = value, reason
    return found


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
        names, gram, norms = list(vectors), m.unit_gram(rows), np.linalg.norm(rows, axis=-1)
    else:
        gram = np.asarray(vectors, dtype=np.float64)
    raw = None if norms is None else gram * norms[..., :, None] * norms[..., None, :]
    return evaluate(Case(gram, names, cluster_indices(names, clusters or {}), rules, raw))
