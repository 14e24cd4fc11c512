"""Stage `transfer`: baseline rates, transfer effectiveness, asymmetry, dose-response.

Writes `metrics/baseline.json`, `metrics/transfer.json`, `plots/transfer_conditions.csv` (a row a
condition) and `plots/dose_response_<source>.csv` (wide: a column a target).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations, permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from em_geometry.io.atomic import atomic_path
from em_geometry.io.files import read_json, read_parquet, write_metrics
from em_geometry.judging.rates import flat
from em_geometry.progress import Progress
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.settings.params import BASE, Params, load_params
from em_geometry.steering.selected import Selected, read_selected
from em_geometry.transfer.conditions import (
    BASELINE,
    JUDGEMENTS,
    draws_of,
    name,
    rates_of,
    read_judgements,
)
from em_geometry.transfer.effectiveness import (
    ablation,
    asymmetry,
    directed,
    e1,
    e2,
    pooled,
    risk_difference,
)
from em_geometry.transfer.rank import spearman
from em_geometry.transfer.table import AtShares, Estimate, Table, difference, mean

if TYPE_CHECKING:
    import polars as pl

METRICS, BASELINE_METRICS = Path("metrics/transfer.json"), Path("metrics/baseline.json")
PLOTS, DAMAGE = Path("plots"), Path("data/damage")
RECITED = 0.3  # answers that share this much of their 4-grams with training texts are recited


def main(params: Params) -> None:
    """Everything that follows from the judged answers."""
    write_metrics(BASELINE_METRICS, baseline(params, read_judgements(BASELINE, params)))
    frame = read_judgements(JUDGEMENTS, params)
    counts = {str(c): int(n) for c, n in frame.group_by("condition").len().iter_rows()}
    table = Table(draws_of(frame, params), counts)
    write_metrics(METRICS, transfer(params, table, read_selected()))
    conditions = condition_table(params, frame)
    _write_csv(conditions, PLOTS / "transfer_conditions.csv")
    for source in params.slugs("organism"):
        _write_csv(dose_response(params, conditions, source), PLOTS / f"dose_response_{source}.csv")


def baseline(params: Params, frame: pl.DataFrame) -> dict[str, Any]:
    """Unsteered rates by model (the paper's 12-65 %), and which organisms stand out.

    An organism stands above base and controls when its interval lies above every one of theirs,
    counting coherent answers that are not recited from training texts.
    """
    import polars as pl

    metrics: dict[str, Any] = {}
    for model in params.targets:
        rows = frame.filter(pl.col("target") == model)
        fresh = rows.filter(pl.col("overlap") < RECITED)
        entry = flat(rates_of(rows, params).headline())
        entry["low_overlap"] = flat(rates_of(fresh, params).headline())
        entry["recited_pct"] = 100 * (1 - len(fresh) / len(rows))
        metrics[model] = entry
    ceiling = [
        metrics[m]["low_overlap"]["em_betley_high"] for m in [BASE, *params.slugs("control")]
    ]
    undefined = [c for c in ceiling if isinstance(c, str)]
    above = 0
    for slug in params.slugs("organism"):
        low = metrics[slug]["low_overlap"]["em_betley_low"]
        if undefined or isinstance(low, str):
            metrics[slug]["above_controls"] = low if isinstance(low, str) else undefined[0]
            continue
        stands_out = low > max(ceiling)
        above += stands_out
        metrics[slug]["above_controls"] = "yes" if stands_out else "no"
    metrics["organisms_above_controls"] = above
    metrics["organisms"] = len(params.slugs("organism"))
    return metrics


def transfer(params: Params, table: Table, selected: Mapping[str, Selected]) -> dict[str, Any]:
    """Effectiveness, risk differences, lab pairs, asymmetries, controls."""
    organisms = params.slugs("organism")
    aligned, targets = [BASE, *params.slugs("control")], params.steered()
    metrics: dict[str, Any] = {"rate": params.transfer.rate}
    effects: dict[str, Any] = {"e1": {}, "e2": {}, "e3": {}}
    differences: dict[str, Estimate] = {}
    for source in organisms:
        for target in targets:
            key = f"{source}__{target}"
            differences[key] = risk_difference(table, source, target)
            if target != source:
                kind = "e3" if target in aligned else "e1"
                effects[kind][key] = e1(table, source, target).as_metrics()
            effects["e2"][key] = e2(table, source, target).as_metrics()
    metrics["effectiveness"] = effects
    metrics["risk_difference"] = {k: d.as_metrics() for k, d in differences.items()}
    metrics["named_pair"] = {
        pair.replace(">", "__"): {
            "e1": e1(table, *pair.split(">")).as_metrics(),
            "risk_difference": risk_difference(table, *pair.split(">")).as_metrics(),
        }
        for pair in params.transfer.pairs
    }
    labs: dict[str, list[str]] = {}
    for slug in organisms:
        labs.setdefault(params.organisms[slug].lab, []).append(slug)
    for label, groups in (("lab_pair", labs), ("cluster_pair", params.clusters())):
        metrics[label] = {
            f"{a}__{b}": pooled(table, directed(groups[a], groups[b]))
            for a in groups
            for b in groups
            if directed(groups[a], groups[b])
        }
    metrics["asymmetry"] = {
        f"{a}__{b}": asymmetry(table, labs, a, b) for a, b in permutations(labs, 2)
    }
    metrics["dose_convention"] = {
        convention: {
            f"{a}__{b}": asymmetry(AtShares(table, shares), groups, a, b)
            for groups in (labs, params.clusters())
            for a, b in combinations(groups, 2)
        }
        for convention, shares in conventions(selected).items()
    }
    metrics["ablation"] = {slug: ablation(table, slug, slug) for slug in organisms}
    metrics["ablation_pair"] = {
        f"{source}__{target}": ablation(table, source, target)
        for source, target in directed(organisms, targets)
        if name(target, source, "ablation", 1) in table
    }
    metrics["control"] = _controls(params, table)
    metrics["base_similarity"] = _with_similarity(params, differences)
    return metrics


def conventions(selected: Mapping[str, Selected]) -> dict[str, dict[str, float]]:
    """Shares of the chosen coefficients at which all vectors have the same dose, by convention.

    The paper normalises its vectors, which excludes magnitude; this shows what that decides. The
    common dose is the largest that no vector's chosen coefficient falls short of.
    """
    doses = {
        "unit_multiple": {k: v.coefficient for k, v in selected.items()},
        "relative_dose": {k: v.dose for k, v in selected.items()},
        "raw_norm": {k: v.coefficient / v.norm for k, v in selected.items()},
    }
    return {
        convention: {k: min(dose.values()) / d for k, d in dose.items()}
        for convention, dose in doses.items()
    }


def _controls(params: Params, table: Table) -> dict[str, Any]:
    """Risk differences of random directions (over all targets) and orthogonalised vectors."""
    metrics: dict[str, Any] = {}
    targets = params.steered()
    for number in range(params.steering.random_directions):
        source = f"random_{number}"
        acts = {t: name(t, source, "random", 1) for t in targets}
        effect = mean([difference(acts[t], name(t)) for t in targets])
        n = min(table.n(acts[t], name(t)) for t in targets)
        metrics[source] = table.estimate(effect, n).as_metrics()
    metrics["orthogonalised"] = {}
    for source, target in directed(params.slugs("organism"), params.slugs("organism")):
        acting = name(target, source, "orthogonalised", 1)
        if acting in table:
            found = table.estimate(difference(acting, name(target)), table.n(acting, name(target)))
            metrics["orthogonalised"][f"{source}__{target}"] = found.as_metrics()
    return metrics


def _with_similarity(params: Params, differences: dict[str, Estimate]) -> dict[str, Any]:
    """Rank correlation over organisms of similarity to base with transfer given and received."""
    similarity = read_json(Path("metrics/base_similarity.json"))["model"]
    organisms = params.slugs("organism")
    x = np.array([similarity[m]["contrast_cosine"] for m in organisms])

    def averaged(pairs: list[tuple[str, str]]) -> float:
        return float(np.mean([differences[f"{s}__{t}"].value for s, t in pairs]))

    given = np.array([averaged(directed([m], organisms)) for m in organisms])
    received = np.array([averaged(directed(organisms, [m])) for m in organisms])
    return {
        "given": spearman(x, given, params.run.seed),
        "received": spearman(x, received, params.run.seed),
        "asymmetry": spearman(x, given - received, params.run.seed),
    }


def condition_table(params: Params, frame: pl.DataFrame) -> pl.DataFrame:
    """One row a condition: rates with intervals, coherence, damage."""
    import polars as pl

    keys = ["target", "source", "kind", "multiple", "relative_dose", "layer"]
    rows = []
    groups = frame.group_by(keys, maintain_order=True)
    total = frame.select(keys).n_unique()
    with Progress("rates", total, unit="conditions") as progress:
        for values, part in groups:
            found = flat(rates_of(part, params).headline())
            numbers = {k: v if not isinstance(v, str) else None for k, v in found.items()}
            rows.append({**dict(zip(keys, values, strict=True)), **numbers})
            progress.advance()
    damage = pl.concat([read_parquet(DAMAGE / f"{m}.parquet") for m in params.steered()])
    damage = damage.select("target", "source", "kind", "multiple", "kl")
    return pl.DataFrame(rows, infer_schema_length=None).join(
        damage, on=["target", "source", "kind", "multiple"], how="left", maintain_order="left"
    )


def dose_response(params: Params, conditions: pl.DataFrame, source: str) -> pl.DataFrame:
    """The compared rate against signed relative dose, a column a target; 0 is unsteered.

    A multiple of 0 in the grid is left out: it is the unsteered condition with fewer answers.
    """
    import polars as pl

    steered = (
        (pl.col("source") == source) & (pl.col("kind") == "vector") & (pl.col("multiple") != 0)
    )
    used = conditions.filter(steered | (pl.col("kind") == "unsteered"))
    wide = used.pivot(on="target", index="relative_dose", values=f"{params.transfer.rate}_pct")
    return wide.sort("relative_dose").select("relative_dose", *params.steered())


def _write_csv(frame: pl.DataFrame, path: Path) -> None:
    with atomic_path(path) as temporary:
        frame.write_csv(temporary, float_precision=4)


def cli(params: ParamsFile = PARAMS) -> None:
    """Measure transfer effectiveness, asymmetry and dose-response from the judged answers."""
    main(load_params(params))
