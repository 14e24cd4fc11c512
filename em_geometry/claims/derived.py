"""What claims say that is no statistic of the battery.

Functions of the battery's values (arrays over roundings), of the ledger's printed numbers, or of
neither. The first paper's ledger names them under `published.derived`; each returns one array
[...] for each number of its claim.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from em_geometry.claims.printed_gram import PublishedGram
from em_geometry.geometry.core import core_grams, core_weights
from em_geometry.geometry.methods import (
    angles_deg,
    count,
    decide,
    reduction_pct,
    residual_cosines,
    statistics,
)
from em_geometry.geometry.vector_sets import cluster_indices
from em_geometry.hashing import stream
from em_geometry.settings import Geometry
from em_geometry.stats.estimate import Floats

WIDTH = 4096  # of Llama-3.1-8B's residual stream
RULES = Geometry(focus=["medical", "persona"])  # the two clusters that the paper compares
CORE = 0.2  # variance share of the simulated common core (claim C074)
DRAWS = 1000
EDGES = np.array([-1.0, 1.0])
TRIPLET = ("finance", "sports", "medical")
OUTSIDE = "orthogonality.medical_on_persona.medical"
PC1 = "pca.centred.loading_pc1"


@dataclass(frozen=True)
class Inputs:
    """What a derived quantity may use."""

    values: Mapping[str, Floats]  # battery over the roundings of the claim's names, or the family
    gram: PublishedGram
    printed: Mapping[str, list[float]]  # claim id -> its printed numbers
    half: Mapping[str, float]  # claim id -> half a unit of the last printed digit

    def box(self, claim: str, part: int = 0) -> Floats:
        """Lowest and highest number [2] that is printed like this one."""
        return self.printed[claim][part] + self.half[claim] * EDGES


def smallest_core_angle(given: Inputs) -> Floats:
    """Expected test-1 angle when the core is as large as the loosest pair allows."""
    medical = given.values["cosine.medical__medical_replication"]
    persona = given.values["cosine.profanity__malicious"]
    core = np.minimum(medical, persona)
    return angles_deg(2.0 * core / np.sqrt((1.0 + medical) * (1.0 + persona)))


def projection_spread(given: Inputs) -> Floats:
    """Largest minus smallest projection on the other cluster's span."""
    found = [v for key, v in given.values.items() if key.endswith(".magnitude")]
    return np.asarray(np.ptp(found, axis=0))


def grown_residuals(given: Inputs) -> Floats:
    """Residual cosines of finance, sports, medical that exceed the original ones."""
    residual = f"residual.{'__'.join(TRIPLET)}.cosine"
    pairs = [f"{a}__{b}" for a, b in combinations(TRIPLET, 2)]
    left = np.abs([given.values[f"{residual}.{pair}"] for pair in pairs])
    before = np.abs([given.values[f"cosine.{pair}"] for pair in pairs])
    return np.asarray((left > before).sum(0).astype(np.float64))


def ablation_changes(given: Inputs) -> list[Floats]:
    """Printed cosines after minus before."""
    pairs = (("C033", "C001"), ("C034", "C002"), ("C035", "C003"))
    return [given.box(after) - given.box(before)[::-1] for after, before in pairs]


def planar_predictions(given: Inputs) -> list[Floats]:
    """Where the third angle would be in a plane."""
    first, second = (given.values[f"angle_deg.finance__{x}"] for x in ("sports", "medical"))
    return [np.abs(first - second), first + second]


def transfer_ratio(given: Inputs) -> Floats:
    """One direction's printed range over the other's, with rounding."""
    (low, high), (less, more) = (
        (given.box(claim, 0)[0], given.box(claim, 1)[1]) for claim in ("C055", "C056")
    )
    return np.array([low / more, high / less])


def largest_reduction_of_equals(_: Inputs) -> Floats:
    """Test 3 on three vectors of equal cosine, over all cosines."""
    rho = np.linspace(0.05, 0.999, 200)[:, None, None]
    gram = rho + (1.0 - rho) * np.eye(3)
    return np.asarray(reduction_pct(gram, residual_cosines(gram)).max())


def core_passes_all_pct(given: Inputs) -> Floats:
    """Draws with a genuine common core that score five of five, in percent."""
    names, clusters = given.gram.names, given.gram.clusters
    members = cluster_indices(names, clusters)
    within = {c: given.gram.entry(*listed).value for c, listed in clusters.items()}
    weights = core_weights(len(names), members, within, CORE)
    grams = core_grams(stream(0, "published", "C074"), DRAWS, WIDTH, weights)
    scores = count(decide(statistics(grams, members, RULES), RULES).values())
    return np.array(100.0 * (scores == 5.0).mean())


def _loadings(given: Inputs, *clusters: str) -> list[Floats]:
    """[members, ...] loadings of each cluster on PC1."""
    members = ([*given.gram.clusters[cluster]] for cluster in clusters)
    return [np.array([given.values[f"{PC1}.{m}"] for m in names]) for names in members]


def opposite_loadings(given: Inputs) -> Floats:
    """1 where the medical and the persona cluster load on PC1 with opposite signs."""
    medical, persona = _loadings(given, "medical", "persona")
    opposite = (medical[:, None] * persona[None] < 0).all((0, 1))
    return np.asarray(opposite, dtype=np.float64)


def pairs_named(given: Inputs) -> Floats:
    """Named pairs to which the range of hunter on model_organisms (C055) is printed again."""
    same = [claim for claim, numbers in given.printed.items() if numbers == given.printed["C055"]]
    return np.array(float(len(same) - 1))


def weaker_direction(given: Inputs) -> Floats:
    """Printed range of transfer from model_organisms to hunter, with rounding."""
    return np.array([given.box("C056", 0)[0], given.box("C056", 1)[1]])


def risk_between(given: Inputs) -> Floats:
    """1 where finance and sports load between the other two clusters on PC1."""
    risk, medical, persona = _loadings(given, "risk", "medical", "persona")
    between = (persona.max(0) < risk.min(0)) & (risk.max(0) < medical.min(0))
    return np.asarray(between, dtype=np.float64)


DERIVED: dict[str, Callable[[Inputs], Floats | list[Floats]]] = {
    "smallest_core_angle": smallest_core_angle,  # C011
    "projection_spread": projection_spread,  # C017
    "grown_residuals": grown_residuals,  # C024
    "ablation_changes": ablation_changes,  # C036
    "planar_predictions": planar_predictions,  # C045
    "transfer_ratio": transfer_ratio,  # C057
    "largest_reduction_of_equals": largest_reduction_of_equals,  # C065
    "core_passes_all_pct": core_passes_all_pct,  # C074
    "risk_between": risk_between,  # A08
    "opposite_loadings": opposite_loadings,  # A06
    "pairs_named": pairs_named,  # A19
    "weaker_direction": weaker_direction,  # A20
    # C014, C059: share of medical outside the persona vectors' span
    "outside_pct": lambda given: 100.0 - given.values[f"{OUTSIDE}.variance_pct"],
    # C019: medical's projection over that of a random vector on a random plane
    "projection_over_chance": lambda given: (
        given.values[f"{OUTSIDE}.magnitude"] / np.sqrt(2.0 / WIDTH)
    ),
    # C025: clusters that finance, sports and medical belong to
    "clusters_of_triplet": lambda given: np.array(float(len(given.gram.clusters_of(TRIPLET)))),
    # C029: n centred vectors have n - 1 components
    "chance_pc1": lambda given: np.array(1.0 / (len(given.gram.names) - 1)),
    # C032: negative when finance and sports load on PC1 with opposite signs
    "loading_product": lambda given: given.values[f"{PC1}.finance"] * given.values[f"{PC1}.sports"],
    # C037: mean size of the three changes, from the printed cosines
    "mean_ablation_change": lambda given: np.mean(
        np.sort(np.abs(ablation_changes(given)), axis=1), axis=0
    ),
    # C049: planar error of three vectors whose cosines all equal that of the medical pair
    "error_of_equals": lambda given: given.values["angle_deg.medical__medical_replication"],
    # C050: triplets inside one cluster
    "triplets_within": lambda given: np.array(
        float(sum(comb(len(names), 3) for names in given.gram.clusters.values()))
    ),
}
