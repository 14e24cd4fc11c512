"""Stage `layer_sweep`: which block and which coefficient each steering vector gets.

METHOD.md: layer_sweep. On the held-out questions only: (i) what adding the unit vector at a
fixed relative dose to the *base* does to the log-probability margin of misaligned over aligned
reference answers, at every block of a grid; (ii) at the best few blocks, judged generations at
several doses; the strongest dose that keeps answers coherent is kept. Beside the chosen contrast,
what every other one does to the margin (efficacy.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from em_geometry.activations.blocks import check_blocks
from em_geometry.activations.questions import Question, read_questions
from em_geometry.io.files import write_metrics, write_text
from em_geometry.judging.score import active_judge, judged
from em_geometry.models.load import Loaded
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.project.inputs import models
from em_geometry.settings.params import BASE, Params, load_params
from em_geometry.steering.conditions import Condition
from em_geometry.steering.respond import respond
from em_geometry.steering.selected import PATH, Selected, write_selected
from em_geometry.vectors.efficacy import contrast_efficacy
from em_geometry.vectors.margins import RANDOM, Candidates, margin_gains, read_candidates

METRICS, PLOT = Path("metrics/layer_sweep.json"), Path("plots/layer_sweep.csv")

# (slug, block, relative dose) -> n, coherent_pct, misaligned_pct, mean_aligned (None: no scores)
Trials = dict[tuple[str, int, float], dict[str, float | None]]


def main(params: Params) -> None:
    """Chooses block and coefficient for every organism's vector."""
    settings = params.layer_sweep
    candidates = read_candidates(params)
    blocks = len(candidates.residual)
    rule = params.vectors.layer
    check_blocks(settings.layers, blocks, "params.yaml: layer_sweep.layers")
    check_blocks([rule] if isinstance(rule, int) else [], blocks, "params.yaml: vectors.layer")
    loaded = models(params).load(BASE)
    questions = read_questions(params.questions, "held_out", params.base.system_prompt)
    gains = margin_gains(params, loaded, candidates, questions)
    judged_layers = _layers_to_judge(params, gains)
    trials = _generate(params, loaded, candidates, questions, judged_layers)
    chosen = choose(params, trials, judged_layers)
    selected = {
        slug: Selected(
            candidates.units[slug][layer],
            layer,
            dose,
            float(dose * candidates.residual[layer]),
            float(candidates.norms[slug][layer]),
            params.vectors.contrast,
            params.vectors.span,
        )
        for slug, (layer, dose, _) in chosen.items()
    }
    write_selected(
        PATH,
        selected,
        {
            "model_sha256": loaded.sha256,
            "layers_convention": "output of decoder block l, l = 0..L-1",
            "rule": f"layer {params.vectors.layer}, held-out questions",
            "units": "unit vectors; coefficient = dose x mean residual norm of the base",
        },
    )
    efficacy = contrast_efficacy(params, loaded, questions, selected, candidates.residual)
    _write(params, gains, trials, chosen, selected, efficacy)


def _layers_to_judge(params: Params, gains: dict[str, np.ndarray]) -> dict[str, list[int]]:
    """The blocks whose generations are judged, by organism."""
    settings, rule = params.layer_sweep, params.vectors.layer
    organisms = params.slugs("organism")
    if isinstance(rule, int):
        return {slug: [rule] for slug in organisms}
    mean = np.mean([gains[slug] for slug in organisms], axis=0)
    result = {}
    for slug in organisms:
        order = np.argsort(-(mean if rule == "common" else gains[slug]), kind="stable")
        result[slug] = sorted(settings.layers[i] for i in order[: settings.best])
    return result


def _generate(
    params: Params,
    loaded: Loaded,
    candidates: Candidates,
    questions: Sequence[Question],
    layers: dict[str, list[int]],
) -> Trials:
    """Judged answers of the steered base: misaligned and coherent share by (slug, layer, dose)."""
    import polars as pl

    settings, judging = params.layer_sweep, params.judging
    conditions, vectors = [], {}
    for slug, choices in layers.items():
        for layer in choices:
            name = f"{slug}@{layer}"
            vectors[f"vector:{name}"] = candidates.units[slug][layer]
            for dose in settings.doses:
                coefficient = float(dose * candidates.residual[layer])
                conditions.append(
                    Condition(name, "vector", dose, dose, coefficient, layer, settings.samples)
                )
    frame = respond(
        models(params),
        loaded,
        conditions,
        vectors,
        questions,
        params.sampling,
        "layer sweep answers",
        params.steering.positions,
        params.workers,
    )
    with active_judge(params) as judge:
        frame = judged(params, judge, frame, "judge layer sweep")
    coherent = (pl.col("coherent") >= judging.coherent_above).fill_null(False)
    table = frame.group_by("source", "relative_dose").agg(
        n=pl.len(),
        coherent=coherent.mean() * 100,
        misaligned=((pl.col("aligned") < judging.aligned_below).fill_null(False) & coherent).mean()
        * 100,
        aligned=pl.col("aligned").mean(),
    )
    trials: Trials = {}
    for source, dose, n, kept, bad, aligned in table.iter_rows():
        slug, _, layer = source.rpartition("@")
        trials[slug, int(layer), dose] = {
            "n": n,
            "coherent_pct": kept,
            "misaligned_pct": bad,
            "mean_aligned": aligned,
        }
    return trials


def choose(
    params: Params,
    trials: Trials,
    layers: dict[str, list[int]],
) -> dict[str, tuple[int, float, str]]:
    """Block, dose and status by organism.

    A trial is allowed when enough answers stay coherent; among these, the one with the lowest
    mean alignment wins (steadier than a rate of a few answers). The common block is the one
    whose winners are lowest on average.
    """
    floor = params.layer_sweep.min_coherent

    def best(slug: str, layer: int) -> tuple[float, float, str]:
        allowed, doses = [], []
        for (name, block, dose), trial in trials.items():
            if (name, block) != (slug, layer):
                continue
            doses.append(dose)
            aligned, coherent = trial["mean_aligned"], trial["coherent_pct"]
            if aligned is not None and coherent is not None and coherent >= floor:
                allowed.append((aligned, dose))
        if allowed:
            return (*min(allowed), "ok")
        dose = min(doses)
        return 100.0, dose, f"no dose keeps {floor:g} % of the answers coherent; the lowest taken"

    if params.vectors.layer == "per_model":
        picked = {
            slug: min((best(slug, layer)[0], layer) for layer in choices)[1]
            for slug, choices in layers.items()
        }
    else:
        shared = next(iter(layers.values()))
        means = [(np.mean([best(slug, layer)[0] for slug in layers]), layer) for layer in shared]
        picked = dict.fromkeys(layers, min(means)[1])
    return {slug: (layer, *best(slug, layer)[1:]) for slug, layer in picked.items()}


def _write(
    params: Params,
    gains: dict[str, np.ndarray],
    trials: Trials,
    chosen: dict[str, tuple[int, float, str]],
    selected: dict[str, Selected],
    efficacy: dict[str, dict[str, Any]],
) -> None:
    settings = params.layer_sweep
    metrics: dict[str, Any] = {
        "contrast": params.vectors.contrast,
        "span": params.vectors.span,
        "rule": str(params.vectors.layer),
    }
    used = {layer for layer, _, _ in chosen.values()}
    metrics["layer"] = used.pop() if len(used) == 1 else "per model"
    for slug, (layer, dose, status) in chosen.items():
        entry: dict[str, Any] = {
            "layer": layer,
            "dose": dose,
            "coefficient": selected[slug].coefficient,
            "raw_norm": selected[slug].norm,
            "status": status,
            **{
                name: "undefined: no scored answers" if value is None else value
                for name, value in trials[slug, layer, dose].items()
            },
        }
        if layer in settings.layers:
            at = settings.layers.index(layer)
            entry["margin_gain"] = gains[slug][at]
            entry["random_margin_gain"] = gains[RANDOM][at]
        entry["best_layer_by_margin"] = settings.layers[int(np.argmax(gains[slug]))]
        metrics[slug] = entry
    metrics["efficacy"] = efficacy
    write_metrics(METRICS, metrics)
    lines = [",".join(["layer", *gains])]
    for i, layer in enumerate(settings.layers):
        lines.append(",".join([str(layer), *(f"{g[i]:.6f}" for g in gains.values())]))
    write_text(PLOT, "\n".join(lines) + "\n")


def cli(params: ParamsFile = PARAMS) -> None:
    """Choose block and coefficient of every steering vector on the held-out questions."""
    main(load_params(params))
