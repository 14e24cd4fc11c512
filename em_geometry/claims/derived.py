"""What claims say that is no statistic of the battery.

Functions of the battery's values (arrays over roundings), of the ledger's printed numbers, or of
neither. `data/paper/claims.yaml` names them under `published.derived`; each returns one array
[...] for each number of its claim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from em_geometry.claims.printed_gram import PublishedGram
from em_geometry.geometry.core import core_grams
from em_geometry.geometry.five_tests import count, decide, statistics
from em_geometry.geometry.gram import angles_deg
from em_geometry.geometry.methods import reduction_pct, residual_cosines
from em_geometry.settings import Geometry
from em_geometry.stats.arrays import Floats
from em_geometry.stats.resample import stream

WIDTH = 4096  # of Llama-3.1-8B's residual stream
RULES = Geometry(focus=["medical", "persona"])  # the two clusters that the paper compares
CORE = 0.2  # variance share of the simulated common core (claim C074)
DRAWS = 1000
EDGES = np.array([-1.0, 1.0])

MEDICAL_IN_PERSONA = "orthogonality.medical_on_persona.medical"
FSM = "finance__sports__medical"


@dataclass(frozen=True)
class Inputs:
    """What a derived quantity may use.

    Attributes:
        values: battery values over the roundings of the claim's names, or over the family.
        gram: the published cosines.
        printed: claim id -> its printed numbers, and `half` their half units, for arithmetic.
        half: claim id -> half a unit of the last printed digit.
    """

    values: Mapping[str, Floats]
    gram: PublishedGram
    printed: Mapping[str, list[float]]
    half: Mapping[str, float]

    def box(self, claim: str, part: int = 0) -> Floats:
        """Lowest and highest number [2] that is printed like this one."""
        return self.printed[claim][part] + self.half[claim] * EDGES


Derived = Callable[[Inputs], list[Floats]]
DERIVED: dict[str, Derived] = {}


def derived(function: Derived) -> Derived:
    """Makes a function known to the ledger by its name."""
    DERIVED[function.__name__] = function
    return function


@derived
def outside_pct(inputs: Inputs) -> list[Floats]:
    """C014, C059: share of medical outside the persona vectors' span."""
    return [100.0 - inputs.values[f"{MEDICAL_IN_PERSONA}.variance_pct"]]


@derived
def smallest_core_angle(inputs: Inputs) -> list[Floats]:
    """C011: expected test-1 angle when the core is as large as the loosest pair allows."""
    medical = inputs.values["cosine.medical__medical_replication"]
    persona = inputs.values["cosine.profanity__malicious"]
    core = np.minimum(medical, persona)
    return [angles_deg(2.0 * core / np.sqrt((1.0 + medical) * (1.0 + persona)))]


@derived
def projection_spread(inputs: Inputs) -> list[Floats]:
    """C017: largest minus smallest projection on the other cluster's span."""
    found = [v for k, v in inputs.values.items() if k.endswith(".magnitude")]
    spread: Floats = np.max(found, axis=0) - np.min(found, axis=0)
    return [spread]


@derived
def projection_over_chance(inputs: Inputs) -> list[Floats]:
    """C019: medical's projection over that of a random vector on a random plane."""
    return [inputs.values[f"{MEDICAL_IN_PERSONA}.magnitude"] / np.sqrt(2.0 / WIDTH)]


@derived
def grown_residuals(inputs: Inputs) -> list[Floats]:
    """C024: residual cosines of finance, sports, medical that exceed the original ones."""
    names = FSM.split("__")
    grown = [
        np.abs(inputs.values[f"residual.{FSM}.cosine.{a}__{b}"])
        > np.abs(inputs.values[f"cosine.{a}__{b}"])
        for a, b in combinations(names, 2)
    ]
    return [np.sum(grown, axis=0).astype(float)]


@derived
def clusters_of_triplet(inputs: Inputs) -> list[Floats]:
    """C025: clusters that finance, sports and medical belong to."""
    return [np.array(float(len(inputs.gram.clusters_of(FSM.split("__")))))]


@derived
def chance_pc1(inputs: Inputs) -> list[Floats]:
    """C029: n centred vectors have n - 1 components."""
    return [np.array(1.0 / (len(inputs.gram.names) - 1))]


@derived
def loading_product(inputs: Inputs) -> list[Floats]:
    """C032: negative when finance and sports load on PC1 with opposite signs."""
    loading = "pca.centred.loading_pc1"
    return [inputs.values[f"{loading}.finance"] * inputs.values[f"{loading}.sports"]]


@derived
def ablation_changes(inputs: Inputs) -> list[Floats]:
    """C036: printed cosines after minus before."""
    pairs = (("C033", "C001"), ("C034", "C002"), ("C035", "C003"))
    return [inputs.box(after) - inputs.box(before)[::-1] for after, before in pairs]


@derived
def mean_ablation_change(inputs: Inputs) -> list[Floats]:
    """C037: mean size of the three changes, from the cosines and from the printed changes."""
    sizes = [np.sort(np.abs(change)) for change in ablation_changes(inputs)]
    mean: Floats = np.mean(sizes, axis=0)
    return [mean]


@derived
def planar_predictions(inputs: Inputs) -> list[Floats]:
    """C045: where the third angle would be in a plane."""
    first, second = (inputs.values[f"angle_deg.finance__{x}"] for x in ("sports", "medical"))
    return [np.abs(first - second), first + second]


@derived
def error_of_equals(inputs: Inputs) -> list[Floats]:
    """C049: planar error of three vectors whose cosines all equal that of the medical pair."""
    return [inputs.values["angle_deg.medical__medical_replication"]]


@derived
def triplets_within(inputs: Inputs) -> list[Floats]:
    """C050: triplets inside one cluster."""
    sizes = [len(members) for members in inputs.gram.clusters.values()]
    return [np.array(float(sum(len(list(combinations(range(s), 3))) for s in sizes)))]


@derived
def transfer_ratio(inputs: Inputs) -> list[Floats]:
    """C057: one direction's printed range over the other's, with rounding."""
    low = inputs.box("C055", 0)[0] / inputs.box("C056", 1)[1]
    high = inputs.box("C055", 1)[1] / inputs.box("C056", 0)[0]
    return [np.array([low, high])]


@derived
def largest_reduction_of_equals(inputs: Inputs) -> list[Floats]:
    """C065: test 3 on three vectors of equal cosine, over all cosines."""
    rho = np.linspace(0.05, 0.999, 200)[:, None, None]
    gram = rho + (1.0 - rho) * np.eye(3)
    return [np.max(reduction_pct(gram, residual_cosines(gram)), keepdims=True)]


@derived
def core_passes_all_pct(inputs: Inputs) -> list[Floats]:
    """C074: draws with a genuine common core that score five of five, in percent."""
    names = inputs.gram.names
    members = {c: [names.index(m) for m in listed] for c, listed in inputs.gram.clusters.items()}
    within = {c: inputs.gram.entry(*listed).value for c, listed in inputs.gram.clusters.items()}
    rng = stream(0, "published", "C074")
    grams = core_grams(rng, DRAWS, WIDTH, members, within, CORE, len(names))
    scores = count(decide(statistics(grams, members, RULES), RULES).values())
    return [np.array(100.0 * (scores == 5.0).mean())]


@derived
def risk_between(inputs: Inputs) -> list[Floats]:
    """A08: 1 where finance and sports load between the other two clusters on PC1."""
    clusters = inputs.gram.clusters
    loads = {
        c: [inputs.values[f"pca.centred.loading_pc1.{m}"] for m in members]
        for c, members in clusters.items()
    }
    below = np.max(loads["persona"], axis=0) < np.min(loads["risk"], axis=0)
    above = np.max(loads["risk"], axis=0) < np.min(loads["medical"], axis=0)
    return [(below & above).astype(float)]
