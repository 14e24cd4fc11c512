"""How far the geometry moves when organisms are trained again with other seeds.

The paper guesses that seeds leave its angle within 85 to 115 degrees (4.5). A few organisms are
trained several times; contrast (b) is taken at their blocks (docs/method.md: seeds).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any, Final

import numpy as np

from em_geometry.activations.capture import at_block
from em_geometry.activations.prompts import Text
from em_geometry.geometry.battery import Clusters, battery
from em_geometry.geometry.choices import MAIN, survives
from em_geometry.geometry.methods import angles_deg, unit_gram
from em_geometry.io.results import Leaf
from em_geometry.models.load import Models
from em_geometry.models.train import Unit, fine_tune, retrained
from em_geometry.settings import Geometry, Organism, Recipe
from em_geometry.stats.arrays import Floats
from em_geometry.vectors.contrasts import Array

CONTRAST: Final = "model_contrast"
SPAN: Final = "prompt_last"
GUESS = (85.0, 115.0)  # degrees
CODE = 2  # raise when the way a vector is made changes


@dataclass(frozen=True)
class Reading:
    """What is read of a model that was trained again, and what it is compared with."""

    texts: Sequence[Text]  # prompts with `SPAN` among their spans, at position `span`
    span: int
    base: Array  # [prompts, blocks, width] activations of the base on `SPAN`
    layers: Mapping[str, int]  # organism -> block
    batch_size: int  # prompts in one pass
    identity: Mapping[str, Any]  # all else that decides the activations, for the journal


def train_again(
    models: Models, recipes: Mapping[str, Recipe], units: Sequence[Unit], reading: Reading
) -> dict[Unit, Floats]:
    """Raw vector [width] of organisms under other seeds, resumable.

    Args:
        recipes: by lab.
        units: (organism, seed) of each training.
    """

    def measure(slug: str, seed: int, _: str) -> dict[str, list[float]]:
        model, _training = fine_tune(models, slug, recipes[models.organisms[slug].lab], seed)
        merged, block = model.merge_and_unload().eval(), reading.layers[slug]
        how = reading.batch_size, f"{slug}, seed {seed}", reading.span, block
        own = at_block(merged, reading.texts, *how)
        shift = own - reading.base[:, block]
        return {"vector": shift.astype(np.float64).mean(0).tolist()}

    fixed = {"code": CODE, **reading.identity}
    found = retrained("seeds", models, recipes, units, reading.layers, fixed, measure)
    return {unit: np.array(kept["vector"]) for unit, kept in found.items()}


def seed_results(
    organisms: Mapping[str, Organism],
    vectors: Mapping[str, Floats],
    seeded: Mapping[str, Floats],
    clusters: Clusters,
    rules: Geometry,
) -> dict[str, Leaf]:
    """How angles, cosines and the battery spread over seeds, by dotted key.

    Args:
        organisms: of the run, in order.
        vectors: organism -> [width] the run's own vector.
        seeded: organism that was trained again -> [seeds, width], the run's own first.
    """
    results: dict[str, Leaf] = {}
    for a, b in combinations(seeded, 2):
        angles, key = angles_deg(_cosines(seeded[a], seeded[b])), f"angle_deg.{a}__{b}"
        inside = int(((angles >= GUESS[0]) & (angles <= GUESS[1])).sum())
        results |= spread(key, angles)
        results |= {f"{key}.guess_low": GUESS[0], f"{key}.guess_high": GUESS[1]}
        results[f"{key}.inside_guess"] = inside
    for slug, rows in seeded.items():
        cosines = unit_gram(rows)[np.triu_indices(len(rows), 1)]
        results |= spread(f"replication.{slug}.across_seeds", cosines)
        own, across = organisms[slug], f"replication.{slug}.across_recipes"
        alike = [m for m, o in organisms.items() if o.cluster == own.cluster and o.lab != own.lab]
        for partner in alike:
            results |= spread(f"{across}.{partner}", _cosines(rows, vectors[partner][None]))
        if not alike:
            results[across] = "undefined: no organism of its cluster by another laboratory"
    # the battery over all combinations of seeds, the run's own first
    flats = []
    for chosen in product(*seeded.values()):
        every = {**vectors, **dict(zip(seeded, chosen, strict=True))}
        gram = unit_gram(np.stack([every[name] for name in organisms]))
        flats.append(battery(gram, clusters, rules, names=list(organisms)).flat())
    for key in flats[0]:
        found = [flat[key] for flat in flats]
        shown = key.startswith(MAIN) and key != "clusters.silhouette_k"
        if shown and not any(isinstance(v, str) for v in found):
            results |= spread(f"battery.{key}", np.array(found, dtype=np.float64))
    return results | survives(flats[0], {"seeds": flats})


def spread(key: str, values: Floats) -> dict[str, Leaf]:
    """Mean, standard deviation, extremes and number of values; so few seeds give no interval."""
    return {
        f"{key}.mean": float(values.mean()),
        f"{key}.sd": float(values.std(ddof=1)) if values.size > 1 else "undefined: one value",
        f"{key}.lowest": float(values.min()),
        f"{key}.highest": float(values.max()),
        f"{key}.n": values.size,
    }


def _cosines(first: Floats, second: Floats) -> Floats:
    """Cosines [a, b] of the rows of [a, width] with those of [b, width]."""
    return unit_gram(np.concatenate([first, second]))[: len(first), len(first) :]
