"""Every statistic of the battery with its interval and its nulls (docs/method.md: calibration).

Nulls: `exchanged` - organisms and controls are exchangeable; `finetunes` - they are further benign
fine-tunes, as far apart as those there are, with and without massive-activation dimensions;
`partitions` - the cluster labels mean nothing. For vectors alone: `independent` - directions
without any relation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from em_geometry.errors import UserError
from em_geometry.geometry import core
from em_geometry.geometry import methods as m
from em_geometry.geometry.battery import MAIN_PARTS, Case, Clusters, Vectors, evaluate
from em_geometry.geometry.grams import (
    between_dimension,
    exchanged_draws,
    finetune_draws,
    possible_dimensions,
)
from em_geometry.geometry.references import UNDEFINED, Evidence, extremes
from em_geometry.geometry.vector_sets import cluster_indices, vector_rows
from em_geometry.hashing import stream
from em_geometry.io.results import Leaf, as_estimate
from em_geometry.io.tables import text_table
from em_geometry.settings import Geometry
from em_geometry.stats.decisions import holm
from em_geometry.stats.estimate import Estimate, Floats, Ints
from em_geometry.stats.intervals import percentiles
from em_geometry.stats.permutation import null_p, partition_test, partitions

QUICK = Geometry(replicates=1000)
MIN_DEFINED = 0.95  # share of replicates that define a statistic, below which it has no interval
CORE = "core.share"
CLOSENESS = "closeness"  # mean size of a cosine; of vectors alone
COUNT = "verdict.count"  # tests that speak for independence
LIKE_RANDOM = (  # least p of the size of cosines, and what is said from there on
    (core.LEVEL, "look like"),
    (0.01, "can hardly be told from"),
    (0.0, "do not look like"),
)
HEADER = ("", "value", "by chance (95 %)", "p", "the paper's rule", "core found", "at 5 %")
CORE_NOTE = (
    "core found: the smallest share of variance, common to all vectors, that the test finds in\n"
    "80 % of draws by the paper's rule, or with 5 % false alarms; clusters as tight as these\nhold "
)
INDEPENDENT, EXCHANGED, FINETUNES = "independent", "exchanged", "finetunes"
WITHOUT_MASSIVE = f"{FINETUNES}_without_massive"
FEW_BENIGN = "undefined: fewer than four benign fine-tunes"
LABELLED = (  # what the labels of clusters decide; the keys name no vectors
    "similarity.",
    "cluster_angle.",
    "cross_variance.",
    "statistic.",
    "pc1_ablation.mean_abs_change",
)
SHOWN = (*LABELLED, "cosine.", "orthogonality.", "pca.centred.pc1_pct")
WITHOUT_INTERVAL = ("verdict.", "clusters.silhouette_k")  # codes and counts
TABLED = ("statistic.", "similarity.", "cluster_angle.", "pca.", "pc1_ablation.", "core.")
FAIR = {  # what stands below the five tests; the last three can tell what they are meant to tell
    COUNT: "tests that say independent",
    "similarity.cross_mean": "mean cosine across clusters",
    CORE: "share of a common core",
    CLOSENESS: "mean size of a cosine",
}
Draws = dict[str, Floats]  # statistic -> its values [B]


@dataclass(frozen=True)
class Calibration:
    """What can be concluded; `print` shows the tests beside chance and power."""

    statistics: Sequence[str]  # keys of the battery, and of what is calibrated beside it
    nulls: Sequence[str]  # that they are compared with
    results: Mapping[str, Leaf]  # everything by dotted key, the statistics under `statistic`
    sweep: core.Sweep | None  # over shares of a common core; None without two clusters

    def at(self, key: str) -> Estimate:
        """The result at `statistic.<key>`; undefined where there is none."""
        return as_estimate(self.results.get(f"statistic.{key}", ""))

    def __str__(self) -> str:
        """The five tests and the fair statistics beside chance, and what could be found."""
        rows: list[list[object]] = []
        for key, words in ({f"statistic.{t}": q for t, q in m.QUESTIONS.items()} | FAIR).items():
            observed, null = self.at(key).value, self.at(f"{key}.{self.nulls[0]}")
            if observed is None:
                if rows:  # of two clusters, whose angle comes first; a ratio may have no value
                    rows.append([words, "undefined", *[""] * (len(HEADER) - 2)])
                continue
            test, chance = key.rpartition(".")[2], null.status.removesuffix(" of replicates")
            if null.low is not None:
                chance = f"{null.low:.3g} to {null.high:.3g}"
            p, rule = self.at(f"{key}.{self.nulls[0]}.p").value, f"verdict.{test}"
            told = ["" if p is None else p, self.results.get(rule, "")]
            told += [self._finds(test, rule) for rule in ("paper", "5pct")]
            rows.append([words, observed, chance, *told])
        text = text_table(HEADER, rows)
        largest = self.results.get("power.largest_share")
        if isinstance(largest, float):
            text += f"\n{CORE_NOTE}{f'at most {largest:.2g}' if largest > 0 else 'none at all'}."
        p = self.at(f"{CLOSENESS}.{INDEPENDENT}.p").value
        if p is not None:
            said = next(words for least, words in LIKE_RANDOM if p > least)
            text += (
                f"\nThese vectors {said} random ones (p = {p:.2g} for the size of their cosines)."
            )
        return text

    def _finds(self, test: str, rule: str) -> str:
        """What core a test finds at a threshold, in words."""
        share = self.results.get(f"power.{test}.smallest_share_{rule}")
        verdict = str(self.results.get(f"power.{test}.verdict_{rule}", ""))
        no_core = verdict.replace("cannot discriminate", "none")
        return f"{share:.2g}" if isinstance(share, float) else no_core


def calibrate(
    vectors: Vectors | Floats,
    clusters: Clusters | None = None,
    rules: Geometry = QUICK,
    seed: int = 0,
    *,
    names: Sequence[str] = (),
    width: int = 0,
) -> Calibration:
    """What vectors alone can tell: statistics against chance, and the power of the tests.

    Args:
        vectors: name -> vector [width]; or their cosines [n, n], which need `names` and `width`.
        clusters: cluster -> names.
        rules: decision rules, and the number of draws (`replicates`).
    Raises:
        UserError: as `battery`.
    """
    if isinstance(vectors, Mapping):
        rows = vector_rows(vectors)
        names, gram, width = list(vectors), m.unit_gram(rows), rows.shape[1]
    else:
        gram = np.asarray(vectors, dtype=np.float64)
    members, count = cluster_indices(names, clusters or {}), rules.replicates

    def found(grams: Floats) -> Draws:
        size = np.abs(m.pair_values(grams)).mean(-1)
        values = calibrated(grams, names, members, rules)
        return {CLOSENESS: size} | values | verdicts(values, rules)

    chance = core.independent_grams(stream(seed, "analyse", "null"), count, len(gram), width)
    nulls = {INDEPENDENT: found(m.cosines(chance))}
    moved = found(relabelled(gram, members, count, stream(seed, "analyse", "partitions")))
    seen = found(gram)
    observed = {
        key: Estimate.from_values(float(value), np.nan, np.nan, why=UNDEFINED)
        for key, value in seen.items()
        if not key.startswith("verdict.test")
    }
    results: dict[str, Leaf] = {"replicates": count, "width": width}
    results |= {f"verdict.{t}": m.VERDICTS.get(float(seen[f"verdict.{t}"]), "") for t in m.TESTS}
    sweep = None
    if len(members) > 1:
        sweep = core.sweep(stream(seed, "analyse"), count, width, gram, members, rules)
        results |= {f"power.{key}": leaf for key, leaf in core.verdicts_of(sweep).items()}
    results |= compared(observed, nulls, moved)
    return Calibration(list(observed), list(nulls), results, sweep)


def check_distinct(gram: Floats, models: Sequence[str]) -> None:
    """Raises UserError where two models are the same: nulls would exchange them for nothing."""
    squares = np.diagonal(gram)
    apart = squares[:, None] + squares - 2 * gram
    for i, j in np.argwhere(np.triu(apart <= m.TINY * (squares[:, None] + squares), 1)):
        raise UserError(
            "two models have the same activations",
            where="params.yaml: organisms",
            found=f"{models[i]} and {models[j]}",
            expected="models that were trained apart",
        )


def calibrate_rows(data: Evidence, rules: Geometry, seed: int) -> Calibration:
    """The whole calibration of one choice of contrast, span and block."""

    def rng(name: str) -> np.random.Generator:
        return stream(seed, "calibration", name)

    def found(grams: Floats) -> Draws:
        return calibrated(m.cosines(grams), names, members, rules)

    def every(grams: Floats) -> Draws:
        values = evaluate(Case(m.cosines(grams), names, members, rules)).values
        known = {key: v for key, v in values.items() if not key.startswith(WITHOUT_INTERVAL)}
        return known | {CORE: core.core_share(grams, members)}

    count, names, members = rules.replicates, data.family.organisms, data.members
    gram, width = m.unit_gram(data.sample.vectors), data.models.vectors.shape[-1]
    dimensions = effective_dimensions(data, rng, count)
    originals = len(names) + len(data.family.controls)
    exchanged = data.models.grams[0][:originals, :originals], data.weights[:, :originals]
    check_distinct(exchanged[0], [*names, *data.family.controls])
    nulls = {EXCHANGED: found(exchanged_draws(rng(EXCHANGED), *exchanged, count))}
    if np.allclose(data.weights.sum(1), 0):
        nulls |= {
            name: found(finetune_draws(rng(name), drawn, data.weights))
            for name, (_, drawn) in dimensions.items()
        }
    moved = found(relabelled(gram, members, count, rng("partitions")))
    estimates = data.estimates(every, rules)
    largest = extremes(estimates, names, members)
    estimates |= {f"similarity.{k}": e for k, e in largest.items() if k.startswith("cross_max")}
    observed = {key: estimates[key] for key in moved}
    size = max(2, round(dimensions[FINETUNES][0])) if FINETUNES in dimensions else width
    sweep = core.sweep(rng("power"), count, size, gram, members, rules)
    results: dict[str, Leaf] = {
        "rows": len(data.models.topic),
        "topics": len({*data.models.topic}),
        "replicates": count,
        "width": width,
        "massive_dimensions": len(data.massive),
        "benign_finetunes": len(data.family.benign),
        **{f"statistic.{key}": e for key, e in estimates.items()},
        **compared(observed, nulls, moved),
    }
    results |= _core(results) | over_trainings(data, found, rules) | at_random(data)
    for name in (FINETUNES, WITHOUT_MASSIVE):
        known = dimensions.get(name)
        results[f"effective_dimension.{name}"] = (
            Estimate(known[0], *percentiles(known[1].astype(float))) if known else FEW_BENIGN
        )
    results |= {f"power.{key}": leaf for key, leaf in core.verdicts_of(sweep).items()}
    return Calibration(list(observed), list(nulls), results, sweep)


def effective_dimensions(
    data: Evidence, rng: Callable[[str], np.random.Generator], count: int
) -> dict[str, tuple[float, Ints]]:
    """Of the benign fine-tunes, with and without massive dimensions, and what they may be [count].

    Empty where fewer than four fine-tunes are benign.
    """
    benign, models = data.family.benign, data.family.models
    shifts = data.models.vectors[[models.index(name) for name in benign]]
    kept, found, of = np.delete(shifts, data.massive, axis=-1), {}, [*benign.values()]
    for name, rows in ((FINETUNES, shifts), (WITHOUT_MASSIVE, kept)):
        value = float(between_dimension(rows @ rows.T, of))
        if np.isfinite(value):
            found[name] = value, possible_dimensions(rng(f"{name} dimension"), rows, of, count)
    return found


def calibrated(grams: Floats, names: Sequence[str], members: m.Members, rules: Geometry) -> Draws:
    """The statistics that are calibrated: key -> [...], from cosines [..., n, n]."""
    values = evaluate(Case(grams, names, members, rules), MAIN_PARTS).values
    kept = {key: value for key, value in values.items() if key.startswith(SHOWN)}
    return kept | {CORE: core.core_share(grams, members)}


def verdicts(values: Draws, rules: Geometry) -> Draws:
    """What the five tests say, as codes, and how many speak for independence: key -> [...]."""
    codes = m.decide({test: values[f"statistic.{test}"] for test in m.TESTS}, rules)
    return {f"verdict.{t}": code for t, code in codes.items()} | {COUNT: m.count(codes.values())}


def relabelled(gram: Floats, members: m.Members, limit: int, rng: np.random.Generator) -> Floats:
    """Cosines [m, n, n] with the vectors in the places of each other label assignment."""
    orders = partitions(list(members.values()), len(gram), limit, rng)
    return gram[orders[:, :, None], orders[:, None, :]]


def compared(
    observed: Mapping[str, Estimate], nulls: Mapping[str, Draws], moved: Draws
) -> dict[str, Leaf]:
    """Every statistic at `statistic.<key>`, and below it what each null gives.

    Of a null: its median with the range of 95 % of its draws, and the p-value, for what stands in
    one table of the report also by Holm; of `partitions`, for
    statistics that the labels decide, p and the smallest p that so few assignments can give.

    Args:
        moved: values [m] under each label assignment.
    """
    results: dict[str, Leaf] = {}
    for key, estimate in observed.items():
        at = f"statistic.{key}"
        results[at] = estimate
        if estimate.value is None:
            continue
        for name, draws in nulls.items():
            p = null_p(estimate.value, draws[key])
            results[f"{at}.{name}"] = _null(draws[key])
            results[f"{at}.{name}.p"] = "undefined in the null" if p is None else p
        if key.startswith(LABELLED):
            tested = partition_test(estimate.value, moved[key])
            parts = {"p": tested.p, "smallest_p": tested.smallest_p}
            parts["assignments"] = tested.estimate.n
            results |= {f"{at}.partitions.{k}": v for k, v in parts.items() if v is not None}
    for name in nulls:
        keys = [f"statistic.{key}.{name}.p" for key in observed if key.startswith(TABLED)]
        known = {key: q for key in keys if isinstance(q := results.get(key), float)}
        raised = holm([*known.values()]).tolist()
        results |= {f"{key}_holm": p for key, p in zip(known, raised, strict=True)}
    return results


def _null(draws: Floats) -> Estimate:
    """Median of a null's draws [B] with the range of 95 % of them."""
    finite = draws[np.isfinite(draws)]
    low, high = percentiles(draws, MIN_DEFINED)
    if not np.isfinite(low):
        share = f"{1 - finite.size / draws.size:.0%}"
        return Estimate.undefined(f"undefined in {share} of replicates")
    return Estimate(float(np.median(finite)), low, high)


def over_trainings(
    data: Evidence, statistic: Callable[[Floats], Draws], rules: Geometry
) -> dict[str, Leaf]:
    """Lowest and highest of what the labels decide, over all combinations of trainings."""
    if not data.family.repeats:
        return {"repeats": "undefined: no model is trained twice"}
    trainings = data.family.trainings(data.weights)
    values = statistic(data.under(trainings))
    values |= {COUNT: verdicts(values, rules)[COUNT]}
    results: dict[str, Leaf] = {"repeats.trainings": len(trainings)}
    for key, found in values.items():
        if key.startswith((*LABELLED, CORE, "verdict.")) and np.isfinite(found).all():
            results |= {f"repeats.{key}.lowest": float(found.min()),
                        f"repeats.{key}.highest": float(found.max())}  # fmt: skip
    return results


def at_random(data: Evidence) -> dict[str, Leaf]:
    """What the size of a fine-tune does alone: random adapters beside the trained ones.

    `random_adapters.size` is the mean length of their shifts over that of the trained ones',
    `random_adapters.cosine` the mean cosine with those. They are no draws of the nulls: what all
    training does is not in them, so their differences from controls would hold it.
    """
    count, shifts = len(data.family.random), data.models.vectors
    if not count:
        return {}
    lengths, cosine = np.linalg.norm(shifts, axis=1), m.unit_gram(shifts)
    found = {
        "random_adapters.size": float(lengths[-count:].mean() / lengths[:-count].mean()),
        "random_adapters.cosine": float(cosine[-count:, :-count].mean()),
    }
    return {key: Estimate.from_values(value, np.nan, np.nan) for key, value in found.items()}


def _core(results: Mapping[str, Leaf]) -> dict[str, Leaf]:
    """Share of a common core with its interval, and what draws without one reach."""
    share = results[f"statistic.{CORE}"]
    if as_estimate(share).value is None:
        return {"core": Estimate.undefined("undefined: needs at least three clusters")}
    null = f"statistic.{CORE}.{EXCHANGED}"
    high = as_estimate(results[null]).high
    return {
        "core": share,
        "core.null_high": "undefined" if high is None else high,
        "core.p": results[f"{null}.p"],
    }
