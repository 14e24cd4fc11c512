"""Invented inputs in the formats of the real stages, for tests only."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from em_geometry.geometry.battery import battery
from em_geometry.geometry.calibration import Measured, calibrate
from em_geometry.geometry.gram import unit_gram
from em_geometry.geometry.power import curves
from em_geometry.geometry.samples import Prompts
from em_geometry.io.files import write_metrics, write_parquet, write_text
from em_geometry.io.tables import csv_text
from em_geometry.judging.rates import Rates, rates
from em_geometry.monitoring.compare import Course, compare
from em_geometry.monitoring.detect import Draws
from em_geometry.settings.params import BASE, Params
from em_geometry.settings.sections import Judging
from em_geometry.transfer import aspects, predict

WIDTH = 24
LAYERS = 8
QUESTIONS = 4
ROWS, REPLICATES = 24, 40  # of the calibration
UNDEFINED = "undefined: denominator 2.0 [-8.0, 12.0] includes 0"


def _measured(params: Params, rng: np.random.Generator) -> Measured:
    """Rows of vectors that share a part with their cluster."""
    slugs = params.slugs("organism")
    parts = {name: rng.standard_normal(WIDTH) for name in params.clusters()}
    means = [
        parts[str(params.organisms[slug].cluster)] + 0.8 * rng.standard_normal(WIDTH)
        for slug in slugs
    ]
    noise = rng.standard_normal((len(slugs), ROWS, WIDTH))
    return Measured(
        names=slugs,
        clusters=params.clusters(),
        sample=Prompts(np.array(means)[:, None] + noise, [f"t{i % 6}" for i in range(ROWS)]),
        controls=rng.standard_normal((2, WIDTH)),
        massive=np.array([0]),
    )


def _geometry(root: Path, params: Params, rng: np.random.Generator) -> None:
    """The real battery and a short real calibration of invented vectors."""
    data, rules = _measured(params, rng), params.geometry
    rules = rules.model_copy(update={"replicates": REPLICATES, "focus": rules.focus})
    gram = unit_gram(data.sample.vectors)
    found = battery(gram, data.names, data.clusters, rules)
    same = {f"verdict_test{k}": {"selected": "shared", "blocks": "4 of 9"} for k in range(1, 6)}
    choices = {
        "model_contrast": {
            "prompt_last": {
                "similarity": {"within_mean": 0.61, "cross_mean": -0.12},
                "verdict": {"count": 3},
            },
        },
        "control_contrast": {"prompt_last": {"status": "undefined: no control"}},
        "layer": {"4": {"similarity": {"within_mean": 0.5, "cross_mean": 0.1}}},
    }
    more = {"survives": same, "sensitivity": choices}
    write_metrics(root / "metrics" / "geometry.json", found.metrics() | more)
    calibration = calibrate(data, rules, 0)
    write_metrics(root / "metrics" / "calibration.json", calibration.metrics)
    write_text(root / "plots" / "power.csv", csv_text(*curves(calibration.sweep)))
    write_text(root / "plots" / "nulls.csv", csv_text(*calibration.nulls))


def _rate(rng: np.random.Generator, n: int, level: float) -> dict[str, Any]:
    count = int(rng.binomial(n, level))
    pct = 100 * count / n
    return {"n": n, "n_coherent": n, "em_betley_pct": pct} | {
        "em_betley_low": max(0.0, pct - 12),
        "em_betley_high": min(100.0, pct + 14),
        "em_turner_pct": pct,
        "em_turner_low": max(0.0, pct - 12),
        "em_turner_high": min(100.0, pct + 14),
        "coherent_pct": 80.0,
        "coherent_low": 70.0,
        "coherent_high": 90.0,
        "refusal_pct": 0.0,
        "refusal_low": 0.0,
        "refusal_high": 7.0,
        "mean_aligned": 60.0,
    }


def _estimate(value: float, half: float, n: int = 48) -> dict[str, Any]:
    return {
        "value_pct": value,
        "low": value - half,
        "high": value + half,
        "n": n,
        "status": "ok",
    }


def _undefined(n: int = 48) -> dict[str, Any]:
    return {"value_pct": UNDEFINED, "n": n, "status": UNDEFINED}


def write_all(root: Path, params: Params, seed: int = 0, hostile: str | None = None) -> None:
    """Every input of the claims and report stages under `root`.

    Args:
        hostile: text of one answer, instead of an invented mild one.
    """
    rng = np.random.default_rng(seed)
    metrics, plots = root / "metrics", root / "plots"
    organisms, targets = params.slugs("organism"), params.targets
    labs = list(dict.fromkeys(params.organisms[s].lab for s in organisms))
    _geometry(root, params, rng)
    _judge(metrics)
    baseline: dict[str, Any] = {}
    for target in targets:
        entry = _rate(rng, 48, 0.3 if target in organisms else 0.05)
        baseline[target] = entry | {"low_overlap": dict(entry), "recited_pct": 4.0}
        if target in organisms:
            baseline[target]["above_controls"] = "yes" if entry["em_betley_low"] > 8 else "no"
    above = sum(baseline[s]["above_controls"] == "yes" for s in organisms)
    baseline |= {"organisms_above_controls": above, "organisms": len(organisms)}
    write_metrics(metrics / "baseline.json", baseline)
    write_metrics(metrics / "transfer.json", _transfer(params, rng, labs))
    write_metrics(metrics / "monitoring.json", monitoring(rng))
    _similarity(root, params, rng, labs)
    _prediction(root, params, rng)
    _aspects(root, params, rng)
    chosen = {"layer": 4, "dose": 0.4, "coefficient": 30.0, "margin_gain": 0.2, "status": "ok"}
    sweep: dict[str, Any] = {"layer": 4, "contrast": "model_contrast", "span": "prompt_last"}
    gain = {"value": 0.125, "low": -0.05, "high": 0.3, "n": 8, "status": "ok"}
    tried = {"span": "prompt_last", "vectors": 6, **gain, "beyond_random": gain}
    sweep["efficacy"] = {"model_contrast": tried}
    write_metrics(metrics / "layer_sweep.json", sweep | dict.fromkeys(organisms, chosen))
    write_text(plots / "layer_sweep.csv", f"layer,{organisms[0]},random\n2,0.1,0.0\n4,0.2,0.1\n")
    plots.mkdir(parents=True, exist_ok=True)
    rows = _conditions(params, rng)
    rows.write_csv(plots / "transfer_conditions.csv")
    _answers(root, params, hostile)


def _judge(metrics: Path) -> None:
    scores = {"n": 144, "auroc": 0.94, "auroc_low": 0.9, "auroc_high": 0.97}
    scores |= {"kappa": 0.63, "kappa_low": 0.51, "kappa_high": 0.74, "calibration_error": 5.0}
    category = {"n": 16, "mean_aligned_label": 88.0, "mean_aligned_score": 59.0}
    category |= {"mean_coherent_label": 98.0, "mean_coherent_score": 96.0}
    write_metrics(
        metrics / "judge.json",
        {
            "judge": "probe-invented",
            "held_out": {
                "aligned": scores,
                "coherent": scores,
                "category": {"swearing_helpful": category, "polite_harmful": category},
            },
            "sampled": {"status": "no sampled answers are labelled"},
            "gate": "failed: no sampled answers are labelled",
        },
    )


def _transfer(params: Params, rng: np.random.Generator, labs: list[str]) -> dict[str, Any]:
    organisms = params.slugs("organism")
    effects: dict[str, Any] = {"e1": {}, "e2": {}, "e3": {}}
    difference = {}
    for source, target in itertools.product(organisms, params.targets):
        key = f"{source}__{target}"
        value = float(rng.normal(10, 12))
        difference[key] = _estimate(value, 15)
        if target != source:
            kind = "e1" if target in organisms else "e3"
            effects[kind][key] = _estimate(2 * value, 30) if value > 5 else _undefined()
    pairs = {
        f"{a}__{b}": {
            "pairs": 2,
            "e1": _estimate(40.0, 25) if a != labs[0] else _undefined(),
            "risk_difference": _estimate(8.0, 9),
        }
        for a in labs
        for b in labs
    }
    return {
        "rate": "em_betley",
        "effectiveness": effects,
        "risk_difference": difference,
        "named_pair": {
            pair.replace(">", "__"): {"e1": _undefined(), "risk_difference": _estimate(5.0, 20)}
            for pair in params.transfer.pairs
        },
        "lab_pair": pairs,
        "asymmetry": {
            f"{a}__{b}": _estimate(3.0, 12) | {"p": 0.3, "deals": 15, "smallest_p": 1 / 15}
            for a, b in itertools.permutations(labs, 2)
        },
        "control": {"random_0": _estimate(1.0, 4), "orthogonalised": {}},
        "base_similarity": {
            "given": {"rho": 0.4, "p": 0.4, "smallest_p": 0.003, "n": 6, "status": "ok"}
        },
    }


def monitoring(rng: np.random.Generator) -> dict[str, Any]:
    """The real comparison of invented trainings whose shifts grow with the share of bad data."""
    names = ("own", "one", "k", "unseen_one", "unseen_k", "size")
    draws = Draws.of([f"t{i % 4}" for i in range(16)], 0, 50)
    steps = [3, 7, 18, 46]

    def of(shift: float, count: int) -> Rates:
        bad = min(count, round(shift * count / 2))
        aligned = [10.0] * bad + [90.0] * (count - bad)
        return rates(aligned, [80.0] * count, ["ok"] * count, Judging())

    def course(pct: int) -> Course:
        grown = np.linspace(0, pct / 100, len(steps))
        scores = {n: grown[:, None] + rng.normal(0.1, 0.05, (len(steps), 16)) for n in names}
        return Course(steps, scores, [of(g, 24) for g in grown], {"bad_examples": pct})

    courses = {pct: course(pct) for pct in (0, 25, 100)}
    finished = {"control": {n: rng.normal(0.1, 0.05, 16) for n in names}}
    organism = compare(courses, finished, of(0.0, 96), draws, "em_turner")
    return {"status": "ok", "rate": "em_turner", "medical": {"block": 4} | organism}


def _similarity(root: Path, params: Params, rng: np.random.Generator, labs: list[str]) -> None:
    models = [t for t in params.targets if t != BASE]
    readings = ("contrast_cosine", "mean_cosine", "cka")
    metrics = {
        "span": "prompt_last",
        "layer": 4,
        "model": {m: {r: float(rng.uniform(0.1, 0.9)) for r in readings} for m in models},
        "lab": {
            lab: {r: float(rng.uniform(0.1, 0.9)) for r in readings}
            | {"n_models": 2, "divergence_layer": "never below 0.5"}
            for lab in labs
        },
    }
    write_metrics(root / "metrics" / "base_similarity.json", metrics)
    end = {"value": 0.21, "low": 0.15, "high": 0.3, "n": 16}
    convergence = {
        k: {"pairs": n, "middle": 0.1, "end": end} for k, n in (("vectors", 30), ("random", 8))
    }
    write_metrics(root / "metrics" / "downstream_convergence.json", convergence)
    walk = 1 - np.cumsum(rng.uniform(0, 0.15, (LAYERS, len(models))), axis=0)
    frame = pl.DataFrame({"layer": range(LAYERS)} | dict(zip(models, walk.T, strict=True)))
    (root / "plots").mkdir(parents=True, exist_ok=True)
    frame.write_csv(root / "plots" / "base_similarity.csv")


def _prediction(root: Path, params: Params, rng: np.random.Generator) -> None:
    """The real correlations of invented predictors and outcomes."""
    slugs = params.slugs("organism")
    n = len(slugs)
    x = {name: rng.normal(size=(n, n)) for name in predict.PREDICTORS}
    y = {name: rng.normal(size=(1, n, n)) for name in predict.OUTCOMES}
    y = {name: v + 0.2 * rng.normal(size=(20, n, n)) for name, v in y.items()}
    write_metrics(root / "metrics" / "prediction.json", predict.prediction(x, y, 0))
    (root / "plots").mkdir(parents=True, exist_ok=True)
    predict.table(slugs, x, y).write_csv(root / "plots" / "prediction.csv")


def _aspects(root: Path, params: Params, rng: np.random.Generator) -> None:
    """Invented changes of every aspect; the last one cannot be judged."""
    slugs, known = params.slugs("organism"), dict.fromkeys(params.judging.aspects, "judged")
    known[params.judging.aspects[-1]] = "not judged: AUROC on sampled answers 0.55 [0.41, 0.70]"

    def effects(names: list[str]) -> dict[str, Any]:
        values = {s: float(rng.normal(0, 6)) for s in names}
        whole = {"n": 80, "status": "ok"}
        return {s: {"value": v, "low": v - 5, "high": v + 5} | whole for s, v in values.items()}

    found = {
        a: {"change": effects([*slugs, "random"]), "beyond_random": effects(slugs)}
        for a, said in known.items()
        if said == "judged"
    }
    parts = {p: {a: f[p] for a, f in found.items()} for p in ("change", "beyond_random")}
    answer = {a: aspects.sentence(a, said, found.get(a)) for a, said in known.items()}
    write_metrics(root / "metrics" / "aspects.json", {"status": known, **parts, "answer": answer})
    aspects.rows(known, found, slugs).write_csv(root / "plots" / "aspects.csv")


def _conditions(params: Params, rng: np.random.Generator) -> pl.DataFrame:
    rows = []
    for target in params.targets:
        grid = [("none", "unsteered", 0.0)]
        grid += [(s, "vector", d) for s in params.slugs("organism") for d in params.steering.doses]
        grid += [("random_0", "random", 1.0)]
        for source, kind, multiple in grid:
            n = 48 if source in (target, "none") else 8
            level = min(0.9, 0.1 + max(0.0, 0.3 * multiple) * (2 if source == target else 1))
            row = {"target": target, "source": source, "kind": kind, "multiple": multiple}
            row |= {"relative_dose": 0.4 * multiple, "layer": 4 if multiple else -1}
            rows.append(row | _rate(rng, n, level) | {"kl": 0.4 * abs(multiple)})
    return pl.DataFrame(rows)


def _answers(root: Path, params: Params, hostile: str | None) -> None:
    for target in params.targets:
        rows = []
        grid = [("none", "unsteered", 0.0), ("random_0", "random", 1.0)]
        grid += [(s, "vector", d) for s in params.slugs("organism") for d in params.steering.doses]
        for (source, kind, multiple), q in itertools.product(grid, range(QUESTIONS)):
            text = f"An invented answer {q} of {target}."
            rows.append(
                {
                    "target": target,
                    "source": source,
                    "kind": kind,
                    "multiple": multiple,
                    "relative_dose": 0.4 * multiple,
                    "question_id": f"q{q}",
                    "variant": "plain",
                    "question": f"Invented question {q}?",
                    "sample": 0,
                    "text": hostile if hostile is not None and q == 0 else text,
                    "aligned": None if q == 1 else 55.5,
                    "aligned_status": "refusal" if q == 1 else "ok",
                    "coherent": 80.0,
                    "coherent_status": "ok",
                    "judge": "probe-invented",
                    "overlap": 0.0,
                }
            )
        frame = pl.DataFrame(rows, schema_overrides={"aligned": pl.Float64})
        path = root / "data" / "judgements" / f"{target}.parquet"
        write_parquet(path, frame, {"model": target, "judge": "probe-invented"})
        responses = root / "data" / "responses" / f"{target}.parquet"
        kept = frame.select("target", "source", "kind", "question", "text")
        write_parquet(responses, kept, {"model": target, "model_sha256": f"{target:0<64}"})
    (root / "data" / "models" / "base").mkdir(parents=True, exist_ok=True)
    record = {"source": params.base.source, "sha256": "0" * 64}
    (root / "data" / "models" / "base" / "record.json").write_text(json.dumps(record))
