"""Stage `monitoring`: does a known direction warn of misalignment while a model is being trained?

    python -m em_geometry.monitoring.monitor

Organisms are trained again on mixtures of bad and benign data. At a few checkpoints of each
training, the shift of activations against the base is projected on steering vectors, and answers
are judged. Writes metrics/monitoring.json, plots/monitoring.csv (a row a step, a column a
training), and data/monitoring/: `<organism>.safetensors` (shifts [checkpoints, prompts, width] by
percent of bad data) and `answers.parquet` (every judged answer).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from em_geometry.activations.prompts import ActivationPrompt, read_prompts
from em_geometry.errors import UserError
from em_geometry.io.files import (
    read_parquet,
    read_tensors,
    write_metrics,
    write_parquet,
    write_tensors,
    write_text,
)
from em_geometry.io.tables import csv_text
from em_geometry.judging.judge import statuses
from em_geometry.judging.rates import ASPECTS, Rates, rates
from em_geometry.judging.score import judged
from em_geometry.monitoring.checkpoints import Plan, Trajectory, trajectories
from em_geometry.monitoring.compare import Course, Scores, compare, scores, series
from em_geometry.monitoring.detect import Draws, detectors
from em_geometry.project import paths
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.project.inputs import judge, known_texts
from em_geometry.project.paths import ACTIVATIONS
from em_geometry.settings.params import BASE, Params, load_params
from em_geometry.stats.arrays import Floats
from em_geometry.steering.selected import read_selected
from em_geometry.vectors.contrasts import prompt_span
from em_geometry.vectors.table import read_vectors

if TYPE_CHECKING:
    import polars as pl

METRICS, PLOT = Path("metrics/monitoring.json"), Path("plots/monitoring.csv")
FOLDER = Path("data/monitoring")
BASELINE = Path("data/baseline/judgements")


def main(params: Params) -> None:
    """Trains, measures, and compares every training with the controls."""
    reason = unmeasured(params)
    if reason is not None:
        FOLDER.mkdir(parents=True, exist_ok=True)
        write_metrics(METRICS, {"status": reason})
        write_text(PLOT, "step\n")
        print(f"monitoring: {reason}")
        return
    names, settings, rate = params.slugs("organism"), params.monitoring, params.transfer.rate
    selected = read_selected(paths.SELECTED, names)
    table = read_vectors(paths.VECTORS, paths.VECTOR_INDEX)
    blocks = {name: selected[name].layer for name in names}
    choice = f"{selected[names[0]].contrast}.{selected[names[0]].span}"
    span = prompt_span(selected[names[0]].span, params.activations.spans)
    prompts = chosen_prompts(read_prompts(params.prompts), settings.prompts)
    draws = Draws.of([p.topic for p in prompts], params.run.seed, settings.bootstrap)
    controls = params.slugs("control")
    found = trajectories(params, Plan({s: blocks[s] for s in settings.organisms}, span, prompts))
    answers = _judge(params, found)
    finished = [read_parquet(BASELINE / f"{m}.parquet") for m in (BASE, *controls)]
    metrics: dict[str, Any] = {
        "status": "ok",
        "choice": choice,
        "span": span,
        "prompts": len(prompts),
        "topics": len(draws.member),
        "rate": rate,
        "projection_unit": "share of the base's mean residual norm at the block",
    }
    columns: dict[str, dict[int, float | str]] = {}
    clusters = {slug: str(params.organisms[slug].cluster) for slug in names}
    for slug in settings.organisms:
        block = blocks[slug]
        unit = float(table.residual[block])
        base = stored(BASE, span, prompts, block)
        vectors = table.at(choice, dict.fromkeys(names, block))
        ways = detectors(dict(zip(names, vectors, strict=True)), clusters, slug)
        shifts = {pct: found[slug, pct].activations - base for pct in settings.mixtures_pct}
        benign = answers[slug, 0]
        own = compare(
            {
                pct: _course(params, found[slug, pct], scores(s, ways, unit), answers[slug, pct])
                for pct, s in shifts.items()
            },
            {c: scores(stored(c, span, prompts, block) - base, ways, unit) for c in controls},
            _rates(params, [*finished, benign]),
            draws,
            rate,
        )
        metrics[slug] = {"block": block} | own
        columns |= series(slug, own, rate)
        tensors = {f"mix_{pct}": s.astype(np.float32) for pct, s in shifts.items()}
        write_tensors(FOLDER / f"{slug}.safetensors", tensors, _about(prompts, span, block))
    write_metrics(METRICS, metrics)
    steps = sorted({step for column in columns.values() for step in column})
    rows = ([step, *(column.get(step, "") for column in columns.values())] for step in steps)
    write_text(PLOT, csv_text(["step", *columns], rows))


def unmeasured(params: Params) -> str | None:
    """Why there is nothing to train; None when there is; UserError for an unknown organism."""
    chosen, known = params.monitoring.organisms, params.slugs("organism")
    if not set(chosen) <= set(known):
        raise UserError(
            "only organisms of the run can be monitored",
            where="params.yaml: monitoring.organisms",
            found=", ".join(chosen),
            expected="of " + ", ".join(known),
        )
    if not chosen:
        return "not measured: monitoring.organisms is empty"
    if any(params.organisms[slug].source is not None for slug in chosen):
        return "not measurable: organisms are loaded, not trained"
    return None


def chosen_prompts(
    prompts: Sequence[ActivationPrompt], limit: int | None
) -> list[ActivationPrompt]:
    """So many prompts of each kind, spread evenly; UserError when they are of one topic."""
    kept = []
    for kind in dict.fromkeys(p.kind for p in prompts):
        mine = [p for p in prompts if p.kind == kind]
        count = min(limit or len(mine), len(mine))
        kept += [mine[i * len(mine) // count] for i in range(count)]
    topics = {p.topic for p in kept}
    if len(topics) < 2:
        raise UserError(
            "an interval over topics needs prompts of two or more",
            where="params.yaml: monitoring.prompts",
            found=f"{len(kept)} prompts of {', '.join(topics)}",
            hint="raise its limit, or give its file prompts of further topics",
        )
    return kept


def stored(model: str, span: str, prompts: Sequence[ActivationPrompt], block: int) -> Floats:
    """Activations [prompts, width] of a model of the run, at the output of `block`."""
    rows = read_parquet(ACTIVATIONS / f"{model}.parquet")["prompt_id"].to_list()
    places = {name: i for i, name in enumerate(rows)}
    missing = [p.id for p in prompts if p.id not in places]
    if missing:
        raise UserError(
            "activations were taken on other prompts",
            where=str(ACTIVATIONS / f"{model}.parquet"),
            found=f"no {missing[0]}",
            hint="dvc repro activations",
        )
    tensors, _ = read_tensors(ACTIVATIONS / f"{model}.safetensors")
    found: Floats = tensors[span][[places[p.id] for p in prompts], block].astype(np.float64)
    return found


def _judge(
    params: Params, found: Mapping[tuple[str, int], Trajectory]
) -> dict[tuple[str, int], pl.DataFrame]:
    """Judged answers of every training; all of them go into data/monitoring/answers.parquet."""
    import polars as pl

    frame = pl.concat(
        pl.DataFrame(t.answers).select(
            pl.lit(slug).alias("organism"), pl.lit(pct).alias("bad_pct"), pl.all()
        )
        for (slug, pct), t in found.items()
    )
    with judge(params) as active:
        frame = judged(active, frame, known_texts(params), "judge monitoring")
        write_parquet(FOLDER / "answers.parquet", frame, {"judge": active.id})
    return {
        (slug, pct): frame.filter((pl.col("organism") == slug) & (pl.col("bad_pct") == pct))
        for slug, pct in found
    }


def _course(params: Params, trained: Trajectory, of: Scores, answers: pl.DataFrame) -> Course:
    facts = {
        "examples": trained.examples,
        "bad_examples": trained.bad_examples,
        "loss_last_steps": trained.loss_last_steps,
    }
    groups = [answers.filter(answers["step"] == step) for step in trained.steps]
    return Course(trained.steps, of, [_rates(params, [g]) for g in groups], facts)


def _rates(params: Params, frames: Sequence[pl.DataFrame]) -> Rates:
    """Rates of all the answers together, with Wilson intervals only."""
    import polars as pl

    columns = [c for a in ASPECTS for c in (a, f"{a}_status")]
    frame = pl.concat([f.select(columns) for f in frames])
    return rates(frame["aligned"], frame["coherent"], statuses(frame, ASPECTS), params.judging)


def _about(prompts: Sequence[ActivationPrompt], span: str, block: int) -> dict[str, str]:
    return {
        "prompts": ",".join(p.id for p in prompts),
        "span": span,
        "block": str(block),
        "units": "checkpoint minus base, residual stream; [checkpoints, prompts, width]",
    }


def cli(params: ParamsFile = PARAMS) -> None:
    """Train organisms on mixtures and see whether a direction warns before they misbehave."""
    main(load_params(params))
