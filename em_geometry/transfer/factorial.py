"""Stage `factorial`: is it the laboratory or the mechanism?

Where `organisms.*.factors` name a designed experiment (profile `deconfounded`), the effect of each
factor on the angle between two vectors, on an organism's similarity to the base, and on the
difference of the two directions of transfer. Intervals are over prompts or questions (of rates
never narrower than the numbers of answers allow); p is over relabellings of the organisms, of
which each is one trained model: neither speaks for further texts or seeds. In every profile: how
far laboratory and cluster are one and the same. Writes metrics/factorial.json.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from em_geometry.geometry.calibrate import prompt_sample, read_measured
from em_geometry.geometry.gram import Floats, Ints, angles_deg, cosines, pair_values, unit_gram
from em_geometry.geometry.resampling import stream
from em_geometry.geometry.samples import Sample
from em_geometry.io.files import write_metrics
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.settings.params import BASE, Params, load_params
from em_geometry.steering.selected import read_selected
from em_geometry.transfer.conditions import JUDGEMENTS, draws_of, name, read_judgements
from em_geometry.transfer.design import (
    Columns,
    Interval,
    Levels,
    Units,
    against_first,
    confounding,
    effects,
    leads,
    pairs,
    percentiles,
    same,
    singles,
)
from em_geometry.transfer.effectiveness import steered
from em_geometry.transfer.rank import orders as model_orders
from em_geometry.transfer.table import Table, Weights, combined, difference

METRICS = Path("metrics/factorial.json")
NO_FACTORS = "no factors named in params: organisms.*.factors"


def main(params: Params) -> None:
    """Writes confounding in every profile, and the factors' effects where there are factors."""
    organisms = [params.organisms[slug] for slug in params.slugs("organism")]
    groups = {"lab": [o.lab for o in organisms], "cluster": [str(o.cluster) for o in organisms]}
    levels = {f: [o.factors[f] for o in organisms] for f in organisms[0].factors}
    metrics: dict[str, Any] = {
        "status": "ok" if levels else NO_FACTORS,
        "organisms": len(organisms),
        "confounding": confounding(levels or groups),
    }
    if levels:
        orders = model_orders(len(organisms), params.run.seed)
        metrics["first_level"] = {f: each[0] for f, each in levels.items()}
        metrics["angle_deg"] = angle_effects(params, levels, orders)
        metrics["base_similarity"] = similarity_effects(params, levels, orders)
        metrics["asymmetry_pct"] = asymmetry_effects(params, levels, orders)
    write_metrics(METRICS, metrics)


def report(
    values: Floats, interval: Interval, columns: Columns, units: Units, orders: Ints
) -> dict[str, Any]:
    """Effects as metrics, or why there are none."""
    if not np.isfinite(values).all():
        return {"status": "undefined: no coherent answers under some condition"}
    found, explained = effects(values, interval, columns, units, orders)
    return {
        "status": "ok",
        "n": len(values),
        "mean": float(values.mean()),
        "explained": explained,
        "relabellings": len(orders),
        "effect": {key: effect.as_metrics() for key, effect in found.items()},
    }


def _resampled(params: Params, sample: Sample) -> tuple[Floats, Floats]:
    """Cosines [n, n] of the vectors, and [b, n, n] over what they rest on drawn again."""
    rng = stream(params.run.seed, "factorial")
    grams = sample.bootstrap(rng, params.geometry.replicates)
    return unit_gram(sample.vectors), cosines(grams)


def angle_effects(params: Params, levels: Levels, orders: Ints) -> dict[str, Any]:
    """What sharing a factor's level does to the angle of two vectors, in degrees."""
    data, contrast, span = read_measured(params)
    observed, drawn = _resampled(params, data.sample)
    values, replicates = (angles_deg(pair_values(g)) for g in (observed, drawn))
    interval = percentiles(replicates)
    found = report(values, interval, same(levels), pairs(len(data.names)), orders)
    return found | {"contrast": contrast, "span": span}


def similarity_effects(params: Params, levels: Levels, orders: Ints) -> dict[str, Any]:
    """What a level does to the cosine of an organism's contrast (a) with the base's."""
    span = params.vectors.span if params.vectors.span.startswith("prompt") else "prompt_last"
    values, replicates = [], []
    for slug, chosen in ((s, read_selected()[s]) for s in params.slugs("organism")):
        at = {BASE: chosen.layer, slug: chosen.layer}
        observed, drawn = _resampled(params, prompt_sample(params, "prompt_contrast", span, at))
        values.append(observed[0, 1])
        replicates.append(drawn[:, 0, 1])
    columns, units = against_first(levels), singles(len(values))
    interval = percentiles(np.stack(replicates, 1))
    return report(np.array(values), interval, columns, units, orders)


def asymmetry_effects(params: Params, levels: Levels, orders: Ints) -> dict[str, Any]:
    """What a level does to transfer given minus transfer received, in percentage points.

    A value a pair: risk difference of the first's vector on the second, minus the reverse.
    """
    if not (JUDGEMENTS / f"{BASE}.parquet").is_file():
        return {"status": f"no judged answers in {JUDGEMENTS}: dvc repro judgements"}
    table = Table(draws_of(read_judgements(JUDGEMENTS, params), params), {})

    def effect(source: str, target: str) -> Weights:
        return difference(steered(target, source), name(target))

    organisms = params.slugs("organism")
    sums = [
        combined([(1, effect(a, b)), (-1, effect(b, a))]) for a, b in combinations(organisms, 2)
    ]

    def interval(weights: Floats) -> tuple[float, float]:
        found = table.estimate(combined(zip(weights, sums, strict=True)), 0)
        return found.low, found.high

    values = np.array([table.sum(each)[0] for each in sums])
    units = pairs(len(organisms), constant=False)
    return report(values, interval, leads(levels), units, orders)


def cli(params: ParamsFile = PARAMS) -> None:
    """Estimate what the factors of a designed set of organisms do."""
    main(load_params(params))
