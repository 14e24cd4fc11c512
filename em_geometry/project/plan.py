"""`make plan`: what the active profile will cost; `make status`: what is done of it.

Counts follow from the params alone. Hours come from a calibration of about a minute on the base
model, once it is there.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import typer

from em_geometry.activations.prompts import read_prompts
from em_geometry.activations.questions import read_questions
from em_geometry.io.journal import journal_folder
from em_geometry.models.base import RECORD
from em_geometry.models.preflight import hub_models, preflight
from em_geometry.project import paths
from em_geometry.project.command import PARAMS, ParamsFile, run
from em_geometry.project.inputs import models
from em_geometry.settings.params import BASE, Params, load_params
from em_geometry.steering.conditions import plan as conditions_of
from em_geometry.steering.selected import Selected

CHARACTERS = 4.0  # of English a token, where no tokenizer is at hand
TEMPLATE = 12  # tokens of a chat template around a prompt
JUDGE_PROMPT = 320  # tokens of a judge's instructions around question and answer
SECONDS = 60.0  # of calibration


@dataclass(frozen=True)
class Counts:
    """Work of a whole run, by kind; tokens of answers are the most that can be generated."""

    texts: int  # prompts and answers that activations are taken of
    answers: Mapping[str, int]
    forward_tokens: int
    generated_tokens: int
    judgements: int
    judge_tokens: tuple[int, int]


def count(params: Params) -> Counts:
    """All work of a run, from the params."""
    system = len(params.base.system_prompt) / CHARACTERS + TEMPLATE
    evaluation = read_questions(params.questions, "evaluation", params.base.system_prompt)
    held_out = read_questions(params.questions, "held_out", params.base.system_prompt)
    prompts = read_prompts(params.prompts)
    nothing = Selected(np.eye(2, dtype=np.float32)[0], 0, 0.1, 1.0, 1.0)
    other = Selected(np.eye(2, dtype=np.float32)[1], 0, 0.1, 1.0, 1.0)
    organisms = params.slugs("organism")
    steered = 0
    for target in params.steered():
        chosen = {slug: nothing if slug == target else other for slug in organisms}
        steered += sum(c.samples for c in conditions_of(params, target, chosen)[0])
    sweep, models = params.layer_sweep, len(params.targets)
    answers = {
        "baseline": models * params.baseline.samples * len(evaluation),
        "sweep": len(organisms) * sweep.best * len(sweep.doses) * sweep.samples * len(held_out),
        "steered": steered * len(evaluation),
    }
    checkpoints = _checkpoints(params)
    if checkpoints:
        answers["monitoring"] = checkpoints * params.monitoring.samples * len(evaluation)
    total, new = sum(answers.values()), params.sampling.max_new_tokens
    question = system + float(np.mean([len(q.prompt) for q in evaluation])) / CHARACTERS
    texts = models * len(prompts) + answers["baseline"]
    read = models * sum(len(p.prompt) / CHARACTERS + system for p in prompts)
    margins = len(organisms) * len(sweep.layers) * len(held_out) * 2 * (question + 40)
    judgements = total * len(params.judging.aspects)
    return Counts(
        texts,
        answers,
        round(read + answers["baseline"] * (question + new) + margins + total * question),
        total * new,
        judgements,
        (round(judgements * (JUDGE_PROMPT + question + new)), judgements),
    )


def _checkpoints(params: Params) -> int:
    """Checkpoints that the stage `monitoring` measures; none where organisms are loaded."""
    settings = params.monitoring
    known = [params.organisms.get(slug) for slug in settings.organisms]
    if any(organism is None or organism.source is not None for organism in known):
        return 0
    return len(settings.organisms) * len(settings.mixtures_pct) * settings.checkpoints


def calibrate(params: Params, seconds: float = SECONDS) -> tuple[float, float]:
    """(forward tokens/s, generated tokens/s) of the base model at the profile's batch sizes."""
    from em_geometry.activations.capture import Text, capture
    from em_geometry.models.chat import render
    from em_geometry.steering.generate import Row, sample

    loaded = models(params).load(BASE)
    questions = read_questions(params.questions, "evaluation", params.base.system_prompt)
    ids = [render(loaded.tokenizer, q.prompt, q.system).ids for q in questions]
    batch = [ids[i % len(ids)] for i in range(params.activations.batch_size)]
    texts = [Text(row, ((0, len(row)),)) for row in batch]
    tokens, start = 0, time.monotonic()
    while time.monotonic() - start < seconds / 4:
        capture(loaded.model, texts)
        tokens += sum(map(len, batch))
    forward = tokens / (time.monotonic() - start)
    rows = [Row(ids[i % len(ids)], i) for i in range(params.sampling.batch_size)]
    short = min(params.sampling.max_new_tokens, 32)
    few = params.sampling.model_copy(update={"max_new_tokens": short})
    tokens, start = 0, time.monotonic()
    while time.monotonic() - start < seconds * 0.75:
        sample(loaded.model, rows, few, frozenset())
        tokens += len(rows) * short
    return forward, tokens / (time.monotonic() - start)


def judge_usd(params: Params, counts: Counts) -> float:
    """What all judgements cost at most; 0 for a judge in process."""
    if params.judging.backend != "openai":
        return 0.0
    prices = params.judging.usd_per_million_input, params.judging.usd_per_million_output
    return sum(n * usd for n, usd in zip(counts.judge_tokens, prices, strict=True)) / 1e6


def lines(
    params: Params,
    counts: Counts,
    speed: tuple[float, float] | None,
    usd_per_hour: float | None = None,
) -> list[str]:
    """The plan as text."""
    judging = params.judging
    found = [f"profile {params.profile}: {len(params.targets)} models"]
    found += [f"{name + ' answers':<22}{n:>14,}" for name, n in counts.answers.items()]
    found += [
        f"{'forward tokens':<22}{counts.forward_tokens:>14,}",
        f"{'generated tokens':<22}{counts.generated_tokens:>14,}  at most",
        f"{'judgements':<22}{counts.judgements:>14,}",
    ]
    if judging.backend == "openai":
        usd = judge_usd(params, counts)
        limit = "no limit" if judging.max_usd is None else f"limit {judging.max_usd:,.0f}"
        found.append(f"{'judge':<22}{usd:>14,.0f}  USD at most ({limit})")
    else:
        found.append(f"{'judge':<22}{'probe':>14}  no money; one forward pass an answer")
    shape = _shape()
    if shape is not None:
        blocks, width = shape
        size = counts.texts * len(params.activations.spans) * blocks * width * 4
        found.append(f"{'activations':<22}{size / 1e9:>14,.2f}  GB of disk")
    if speed is None:
        found.append("hours: not known before the base model is there (dvc repro base_model)")
    else:
        forward = counts.forward_tokens / speed[0]
        if judging.backend == "probe":
            forward += counts.generated_tokens / speed[0]
        hours = (forward + counts.generated_tokens / speed[1]) / 3600
        found.append(
            f"{'hours':<22}{hours:>14,.1f}  at {speed[0]:,.0f} tokens/s forward, "
            f"{speed[1]:,.0f} generated; training and start-up not counted"
        )
        if usd_per_hour is not None:
            found.append(f"{'machine':<22}{hours * usd_per_hour:>14,.0f}  USD")
    return found


def _shape() -> tuple[int, int] | None:
    """Blocks and width of the base model, when it is on this disk."""
    path = paths.BASE_MODEL / "config.json"
    if not path.is_file():
        return None
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config["num_hidden_layers"], config["hidden_size"]


def status(params: Params, usd_per_hour: float | None = None) -> list[str]:
    """Progress of every long stage that has run here, and what remains of the whole run.

    Args:
        usd_per_hour: price of the machine; None = not counted.
    """
    found = []
    answers = {f"{kind} {slug}" for kind in ("baseline", "responses") for slug in params.targets}
    answers.add("layer sweep answers")
    done = fresh_answers = seconds = 0.0
    for path in sorted(journal_folder().glob("*.progress.json")):
        p = json.loads(path.read_text(encoding="utf-8"))
        fresh = p["done"] - p["first"]
        if p["label"] in answers:
            done, fresh_answers = done + p["done"], fresh_answers + fresh
            seconds += p["seconds"]
        left = (p["total"] - p["done"]) * p["seconds"] / fresh if fresh else 0.0
        share = 100 * p["done"] / max(1, p["total"])
        rest = f"{left / 60:,.0f} min left" if p["done"] < p["total"] else "done"
        when = time.strftime("%d %b %H:%M", time.localtime(path.stat().st_mtime))
        found.append(
            f"{p['label']:<34}{p['done']:>9,} of {p['total']:<9,}{share:>5.0f} %  {rest}  ({when})"
        )
    if not found:
        return [f"nothing has run yet (no progress in {journal_folder()})"]
    counts = count(params)
    total = sum(counts.answers.values())
    share = f"{min(done, total):,.0f} of {total:,} answers"
    if fresh_answers:
        hours = max(0.0, total - done) * seconds / fresh_answers / 3600
        money = "" if usd_per_hour is None else f", {hours * usd_per_hour:,.2f} USD of machine"
        share += f"; {hours:,.2f} h of sampling left at the rate so far{money}"
    found.append(f"whole run: {share}")
    if params.judging.backend == "openai":
        judged = min(_replies(), counts.judgements)
        usd = judge_usd(params, counts) * (1 - judged / counts.judgements)
        found.append(f"judge: {judged:,} of {counts.judgements:,} replies; {usd:,.2f} USD left")
    return found


def _replies() -> int:
    """Replies of paid judges in the journal."""
    path = journal_folder() / "judgements-openai.sqlite"
    if not path.is_file():
        return 0
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as journal:
        return int(journal.execute("SELECT count(*) FROM units").fetchone()[0])


def cli(
    progress: Annotated[bool, typer.Option("--status", help="What is done, what remains.")] = False,
    usd_per_hour: Annotated[float | None, typer.Option(help="Price of the machine.")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Print what the active profile costs, before anything is spent; or how far it is."""
    active = load_params(params)
    if progress:
        print("\n".join(status(active, usd_per_hour)))
        return
    there = (paths.BASE_MODEL / RECORD).is_file()
    speed = calibrate(active) if there else None
    print("\n".join(lines(active, count(active), speed, usd_per_hour)))
    if any(True for _ in hub_models(models(active))):
        preflight(active.profile, models(active))
        print("preflight: access, revisions, disk and memory are fine")


if __name__ == "__main__":
    run(cli)
