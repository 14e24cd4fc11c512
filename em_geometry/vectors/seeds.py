"""How far the geometry moves when organisms are trained again with other seeds.

The paper guesses that seeds leave its angle within 85 to 115 degrees. A few organisms are trained
several times; contrast (b) is taken at their blocks. Then: how angles, cosines and verdicts spread
over seeds, and what seeds, text and recipe each move (docs/method.md: seeds).

Random effects by the analysis of variance (Searle, Casella & McCulloch, *Variance Components*,
ch. 4). Intervals by chi-square, the residual taken as known (Tukey-Williams); with three seeds they
span more than a factor of ten, which is what three seeds can say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.stats import chi2

from em_geometry.activations.capture import Text, captured
from em_geometry.geometry.battery import Clusters, battery
from em_geometry.geometry.choices import MAIN, survives
from em_geometry.geometry.gram import angles_deg, unit_gram
from em_geometry.io.results import Leaf
from em_geometry.models.load import Models
from em_geometry.models.retrain import Unit, retrained
from em_geometry.models.train import fine_tune
from em_geometry.settings import Geometry, Organism, Recipe
from em_geometry.stats.arrays import Bools, Floats
from em_geometry.stats.estimate import Estimate
from em_geometry.stats.intervals import TAILS
from em_geometry.vectors.base_similarity import cosine
from em_geometry.vectors.contrasts import Array, prompt_contrast

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONTRAST: Final = "model_contrast"
SPAN: Final = "prompt_last"
GUESS = (85.0, 115.0)  # degrees, the paper's section 4.5
CODE = 2  # raise when the way a vector is made changes
HEADLINES = ("similarity.within_mean", "similarity.cross_mean", "verdict.count")


@dataclass(frozen=True)
class Reading:
    """What is read of a model that was trained again, and what it is compared with.

    Attributes:
        texts: prompts with `SPAN` among their spans, at position `span`.
        span: of `SPAN`.
        base: [prompts, blocks, width] activations of the base on `SPAN`.
        harmful: bool [prompts].
        layers: organism -> block.
        batch_size: prompts in one pass.
        identity: everything else that decides the activations, for the journal.
    """

    texts: Sequence[Text]
    span: int
    base: Array
    harmful: Bools
    layers: Mapping[str, int]
    batch_size: int
    identity: Mapping[str, Any]

    def at_block(self, model: PreTrainedModel, slug: str, label: str) -> Array:
        """Activations [prompts, width] of a model at an organism's block."""
        block = self.layers[slug]
        found = np.empty_like(self.base[:, block])
        for where, means, _ in captured(model, self.texts, self.batch_size, label):
            found[where] = means[:, self.span, block]
        return found

    def likeness(self, activations: Array, slug: str) -> float:
        """Cosine of contrast (a) with the base's, of activations [prompts, width] at the block."""
        base = self.base[:, self.layers[slug]]
        own, other = (
            prompt_contrast(a.astype(np.float64), self.harmful) for a in (activations, base)
        )
        return float(cosine(own, other))


def train_again(
    models: Models, recipes: Mapping[str, Recipe], units: Sequence[Unit], reading: Reading
) -> dict[Unit, tuple[Floats, float]]:
    """Raw vector [width] and similarity to the base of organisms under other seeds, resumable.

    Args:
        recipes: by lab.
        units: (organism, seed) of each training.
    """

    def measure(slug: str, seed: int, _: str) -> dict[str, Any]:
        model, _training = fine_tune(models, slug, recipes[models.organisms[slug].lab], seed)
        own = reading.at_block(model.merge_and_unload().eval(), slug, f"{slug}, seed {seed}")
        shift = own - reading.base[:, reading.layers[slug]]
        vector = shift.astype(np.float64).mean(0).tolist()
        return {"vector": vector, "base_similarity": reading.likeness(own, slug)}

    fixed = {"code": CODE, **reading.identity}
    found = retrained("seeds", models, recipes, units, reading.layers, fixed, measure)
    return {unit: (np.array(v["vector"]), v["base_similarity"]) for unit, v in found.items()}


@dataclass(frozen=True)
class Seeded:
    """Vectors and similarities to the base, of the run and under further seeds.

    Attributes:
        organisms: of the run, in order, with what they were trained on.
        vectors: organism -> [width] the run's own vector.
        likeness: organism -> its similarity to the base.
        seeded: organism that was trained again -> [seeds, width], the run's own first.
        similar: the same organisms -> [seeds].
    """

    organisms: Mapping[str, Organism]
    vectors: Mapping[str, Floats]
    likeness: Mapping[str, float]
    seeded: Mapping[str, Floats]
    similar: Mapping[str, Floats]

    def results(self, clusters: Clusters, rules: Geometry) -> dict[str, Leaf]:
        """Spreads and components by dotted key."""
        results: dict[str, Leaf] = {}
        for a, b in combinations(self.seeded, 2):
            angles = angles_deg(_cosines(self.seeded[a], self.seeded[b]))
            inside = int(((angles >= GUESS[0]) & (angles <= GUESS[1])).sum())
            results |= spread(f"angle_deg.{a}__{b}", angles.ravel())
            guess = {"guess_low": GUESS[0], "guess_high": GUESS[1], "inside_guess": inside}
            results |= {f"angle_deg.{a}__{b}.{k}": v for k, v in guess.items()}
            results |= crossed(f"components.angle_deg.{a}__{b}", angles, (a, b))
        for slug in self.seeded:
            results |= self._replication(slug)
            results |= spread(f"base_similarity.{slug}", self.similar[slug])
            key = f"components.base_similarity.{slug}"
            results |= crossed(key, self.similar[slug], [slug])
        return results | self._battery(clusters, rules) | self._kinds()

    def _replication(self, slug: str) -> dict[str, Leaf]:
        """Cosines of one organism across seeds, and with the same kind by other laboratories."""
        own, vectors = self.organisms[slug], self.seeded[slug]
        partners = [
            m
            for m, other in self.organisms.items()
            if other.cluster == own.cluster and other.lab != own.lab
        ]
        pairs = np.triu_indices(len(vectors), 1)
        results = spread(f"replication.{slug}.across_seeds", unit_gram(vectors)[pairs])
        across = f"replication.{slug}.across_recipes"
        for partner in partners:
            cosines = _cosines(vectors, self.vectors[partner][None])
            results |= spread(f"{across}.{partner}", cosines.ravel())
        if not partners:
            results[across] = "undefined: no organism of its cluster by another laboratory"
        return results

    def _battery(self, clusters: Clusters, rules: Geometry) -> dict[str, Leaf]:
        """Main numbers over all combinations of seeds, and in how many a conclusion is the same.

        The first combination is the run's own.
        """
        flats = []
        for chosen in product(*self.seeded.values()):
            rows = {**self.vectors, **dict(zip(self.seeded, chosen, strict=True))}
            gram = unit_gram(np.stack([rows[name] for name in self.organisms]))
            flats.append(battery(gram, clusters, rules, names=list(self.organisms)).flat())
        results = survives(flats[0], {"seeds": flats})
        shape = [len(each) for each in self.seeded.values()]
        for key in flats[0]:
            found = [flat[key] for flat in flats]
            if not key.startswith(MAIN) or any(isinstance(v, str) for v in found):
                continue
            values = np.array(found, dtype=np.float64)
            if key != "clusters.silhouette_k":
                results |= spread(f"battery.{key}", values)
            if key in HEADLINES:
                name = f"components.{key.replace('.', '_')}"
                results |= crossed(name, values.reshape(shape), list(self.seeded))
        return results

    def _kinds(self) -> dict[str, Leaf]:
        """What text and recipe add to seeds, from organisms of one cluster.

        Two that share the recipe differ in text, two that share the text in recipe; two that share
        neither say how much both add together, and no number of seeds splits that.
        """
        kinds: dict[str, dict[str, Leaf]] = {"text": {}, "recipe": {}, "text_and_recipe": {}}
        for a in self.seeded:
            for b, other in self.organisms.items():
                one = self.organisms[a]
                if one.cluster != other.cluster or a == b or (b in self.seeded and b < a):
                    continue
                same_text, same_recipe = one.data == other.data, one.lab == other.lab
                kind = "recipe" if same_text else "text" if same_recipe else "text_and_recipe"
                key = f"components.kinds.{kind}.{a}__{b}"
                second = self.seeded.get(b, self.vectors[b][None])
                likeness = self.similar.get(b, np.array([self.likeness[b]]))
                kinds[kind][f"{key}.base_similarity"] = between(self.similar[a], likeness)
                for m in (m for m in self.seeded if self.organisms[m].cluster != one.cluster):
                    angles = [
                        angles_deg(_cosines(x, self.seeded[m])).mean(1)
                        for x in (self.seeded[a], second)
                    ]
                    kinds[kind][f"{key}.angle_deg_{m}"] = between(*angles)
        none = (
            "not identified: no two organisms of a cluster, one of them seeded, differ in it alone"
        )
        results: dict[str, Leaf] = {}
        for kind, entries in kinds.items():
            results |= entries or {f"components.kinds.{kind}": none}
        return results


def spread(key: str, values: Floats) -> dict[str, Leaf]:
    """Mean, extremes and number of values; no interval, which so few seeds cannot give."""
    return {
        f"{key}.mean": float(values.mean()),
        f"{key}.lowest": float(values.min()),
        f"{key}.highest": float(values.max()),
        f"{key}.n": values.size,
    }


def component(square: float, df: int, residual: float, size: float) -> Estimate:
    """Standard deviation of one source, with its 95 % interval.

    Args:
        square: mean square of the source on `df` degrees of freedom.
        residual: mean square of what lies below it.
        size: how often the source's variance counts in its mean square.
    """
    variance = max(0.0, (square - residual) / size)
    tails = reversed(TAILS)  # of chi-square, for the lower and the upper end
    low, high = (max(0.0, (df * square / chi2.ppf(t, df) - residual) / size) for t in tails)
    return Estimate(variance**0.5, float(low**0.5), float(high**0.5), df + 1)


def crossed(key: str, values: Floats, names: Sequence[str]) -> dict[str, Leaf]:
    """Components of a number that depends on the seeds of several organisms, all combined.

    Args:
        key: of the results, under which they stand.
        values: [s1, ..., sk] one value for each combination of seeds, two or more seeds each.
        names: k organisms.

    Returns:
        `seed_<organism>` for each, `interaction` (what no single seed explains), and `seed_total`,
        the standard deviation of a run whose organisms all get fresh seeds.
    """
    centred = values - values.mean()
    left, spare = float((centred**2).sum()), values.size - 1
    sources = []
    for axis, count in enumerate(values.shape):
        means = centred.mean(axis=tuple(i for i in range(values.ndim) if i != axis))
        square = values.size / count * float((means**2).sum())
        sources.append((square, count))
        left, spare = left - square, spare - (count - 1)
    residual = max(0.0, left) / spare if spare else 0.0
    found = {
        f"{key}.seed_{name}": component(
            square / (count - 1), count - 1, residual, values.size / count
        )
        for name, (square, count) in zip(names, sources, strict=True)
    }
    total = residual + sum((entry.value or 0.0) ** 2 for entry in found.values())
    return {**found, f"{key}.interaction": residual**0.5, f"{key}.seed_total": total**0.5}


def between(first: Floats, second: Floats) -> Estimate:
    """Component of what sets two organisms of a kind apart, beyond their seeds.

    Args:
        first, second: [s] the number under each seed of the one and of the other.
    """
    spare = len(first) + len(second) - 2
    if spare == 0:
        return Estimate.undefined("not identified: one seed of each may make the difference")
    within = sum(float(((x - x.mean()) ** 2).sum()) for x in (first, second)) / spare
    chance = within * (1 / len(first) + 1 / len(second)) / 2
    square = float(first.mean() - second.mean()) ** 2 / 2
    return component(square, 1, chance, 1.0)


def _cosines(first: Floats, second: Floats) -> Floats:
    """Cosines [a, b] of the rows of [a, width] with those of [b, width]."""
    return unit_gram(np.concatenate([first, second]))[: len(first), len(first) :]
