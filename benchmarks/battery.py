"""The battery on 10,000 Gram matrices against a plain loop over the vectors themselves.

    python -m benchmarks.battery

One core, n = 6. The loop does what one would write without the Gram matrix: a replicate at a
time, on unit vectors of width 4096, with the libraries' PCA, linkage and SVD. It is timed on a
few replicates, and on those the two agree.
"""

from __future__ import annotations

import json
import resource
import time
from itertools import combinations, permutations

import numpy as np
from scipy.cluster.hierarchy import cophenet, fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_limits

from em_geometry.geometry.battery import battery
from em_geometry.geometry.trees import LINKAGES
from em_geometry.settings import Geometry

REPLICATES, LOOPED, WIDTH = 10_000, 20, 4096
NAMES = list("abcdef")
CLUSTERS = {"x": ["a", "b"], "y": ["c", "d"], "z": ["e", "f"]}
GROUPS = [(0, 1), (2, 3), (4, 5)]


def unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def without(vectors: np.ndarray, axis: np.ndarray) -> np.ndarray:
    return unit(vectors - np.outer(vectors @ axis, axis))


def top_direction(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.svd(vectors, full_matrices=False)[2][0])


def plain(vectors: np.ndarray) -> dict[str, float]:
    """One replicate [6, width], method by method; a few results to compare."""
    cosine = vectors @ vectors.T
    found: dict[str, float] = {}
    for triplet in combinations(range(6), 3):
        chosen = vectors[list(triplet)]
        u, s, vt = np.linalg.svd(chosen, full_matrices=False)
        for k in (1, 2):
            lower = (u[:, :k] * s[:k]) @ vt[:k]
            np.corrcoef((lower @ lower.T).ravel(), (chosen @ chosen.T).ravel())
        ab, ac, bc = np.degrees(
            np.arccos([chosen[i] @ chosen[j] for i, j in combinations(range(3), 2)])
        )
        name = "__".join(NAMES[i] for i in triplet)
        found[f"triangle.{name}.error_deg"] = min(abs(bc - abs(ab - ac)), abs(bc - (ab + ac)))
        left = without(chosen, unit(chosen.mean(0)))
        found[f"residual.{name}.cosine.{NAMES[triplet[0]]}__{NAMES[triplet[1]]}"] = float(
            left[0] @ left[1]
        )
    for i, j in combinations(range(6), 2):
        projections = vectors @ unit(vectors[i] + vectors[j])
        found[f"projection.{NAMES[i]}__{NAMES[j]}.a"] = float(projections[0])
    pca = PCA(svd_solver="full").fit(vectors)
    found["pca.centred.pc1_pct"] = 100 * pca.explained_variance_ratio_[0]
    top_direction(vectors)
    after = without(vectors, pca.components_[0])
    changes = [abs(after[i] @ after[j] - cosine[i, j]) for i, j in GROUPS]
    found["pc1_ablation.mean_abs_change"] = float(np.mean(changes))
    distance = np.clip(1 - cosine, 0, 2)
    np.fill_diagonal(distance, 0)
    condensed = squareform(distance, checks=False)
    for method in LINKAGES:
        tree = linkage(condensed, method)
        found[f"clusters.{method}.cophenetic_r"] = float(cophenet(tree, condensed)[0])
    tree = linkage(condensed, "average")
    for k in range(2, 6):
        silhouette_score(distance, fcluster(tree, k, "maxclust"), metric="precomputed")
    for (a, one), (b, two) in permutations(zip("xyz", GROUPS, strict=True), 2):
        first, second = vectors[list(one)], vectors[list(two)]
        basis = np.linalg.qr(second.T)[0]
        found[f"orthogonality.{a}_on_{b}.{NAMES[one[0]]}.magnitude"] = float(
            np.linalg.norm(first[0] @ basis)
        )
        share = 100 * ((second @ top_direction(first)) ** 2).sum() / 2
        found[f"cross_variance.{a}_pc1_in_{b}.uncentred_pct"] = float(share)
        top_direction(first - first.mean(0))
        if one < two:
            angle = np.degrees(np.arccos(unit(first.sum(0)) @ unit(second.sum(0))))
            found[f"cluster_angle.{a}__{b}_deg"] = float(angle)
    return found


def main() -> None:
    """Prints seconds, their ratio, peak memory and the largest difference as JSON."""
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((LOOPED, 6, WIDTH)) + 0.7 * rng.standard_normal((LOOPED, 1, WIDTH))
    vectors = unit(mixed)
    narrow = unit(rng.standard_normal((REPLICATES - LOOPED, 6, 64)))
    grams = np.concatenate([vectors @ vectors.swapaxes(1, 2), narrow @ narrow.swapaxes(1, 2)])
    rules = Geometry(focus=[])
    start = time.perf_counter()
    found = battery(grams, CLUSTERS, rules, names=NAMES).values
    batched = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    looped = [plain(v) for v in vectors]
    each = (time.perf_counter() - start) / LOOPED
    worst = max(abs(found[k][r] - v) for r, one in enumerate(looped) for k, v in one.items())
    print(
        json.dumps(
            {
                "replicates": REPLICATES,
                "statistics": len(found),
                "battery_s": round(batched, 2),
                "loop_s": round(each * REPLICATES, 1),
                "ratio": round(each * REPLICATES / batched, 1),
                "peak_mb": round(memory),
                "largest_difference": float(worst),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
