"""`em-geometry plan`: what the active profile will cost; `em-geometry status`: what is done of it.

Counts follow from the params alone. Hours come from a calibration of about a minute on the base
model, once it is there.
"""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from itertools import cycle, islice
from typing import Annotated

import typer

from em_geometry.io.files import read_json
from em_geometry.io.journal import journal_folder
from em_geometry.io.results import Results, read_results
from em_geometry.judging.client import UNPRICED, Budget, most_tokens
from em_geometry.models.checkpoint import RECORD
from em_geometry.models.preflight import hub_models, preflight
from em_geometry.project import paths
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.project.inputs import models, questions
from em_geometry.project.work import count
from em_geometry.settings import BASE, Params, load_params
from em_geometry.stats.ppi import labels_alone

TRAINED = 2.0  # forward passes that one step of a training takes; measured, with low blocks frozen
SECONDS = 60.0  # of calibration
HALF = 5.0  # points to both sides that a judged rate's interval should reach
UNKNOWN = "hours: not known before the base model is there (dvc repro base_model)"

Price = Annotated[float | None, typer.Option(help="Price of the machine.")]


def calibrate(params: Params) -> tuple[float, float]:
    """(forward tokens/s, generated tokens/s) of the base model at the profile's batch sizes."""
    from em_geometry.activations.capture import capture
    from em_geometry.activations.prompts import Text
    from em_geometry.models.chat import render
    from em_geometry.steering.answers import Row, sample

    loaded = models(params).load(BASE)
    asked = questions(params)
    ids = [render(loaded.tokenizer, q.prompt, q.system).ids for q in asked]
    size, new = params.activations.batch_size, min(params.sampling.max_new_tokens, 32)
    texts = [Text(row, ((0, len(row)),)) for row in islice(cycle(ids), size)]
    rows = [Row(ids[i % len(ids)], i) for i in range(params.sampling.batch_size)]
    few = params.sampling.model_copy(update={"max_new_tokens": new})

    def rate(tokens: int, work: Callable[[], object], seconds: float) -> float:
        done, start = 0, time.monotonic()
        while time.monotonic() - start < seconds:
            work()
            done += tokens
        return done / (time.monotonic() - start)

    read = sum(len(t.ids) for t in texts)
    forward = rate(read, lambda: capture(loaded.model, texts), SECONDS / 4)
    generate = lambda: sample(loaded.model, rows, few, frozenset())  # noqa: E731
    return forward, rate(len(rows) * new, generate, SECONDS * 3 / 4)


def costs(
    params: Params, speed: tuple[float, float] | None, usd_per_hour: float | None = None
) -> list[str]:
    """The plan as lines of text.

    Args:
        speed: as `calibrate` gives it; None = no model is there yet.
        usd_per_hour: price of the machine; None = not counted.
    """
    head = f"profile {params.profile}: {len(params.targets)} models"
    if not _samples(params):
        return [f"{head}, of which activations are taken; no answer is sampled, none is judged"]
    counts, judging = count(params), params.judging
    limit = "no limit" if judging.max_usd is None else f"limit {judging.max_usd:,.0f}"
    passes = f"no money; a pass a judgement, {counts.judge_tokens:,} tokens read"
    budget, written = Budget(judging, 0.0), counts.judgements * most_tokens(judging, "text")
    in_text = judging.text_samples * budget.cost(counts.judge_tokens, written)
    usd = f"{counts.judge_usd:,.2f}", f"USD; {in_text:,.2f} if it replies in text ({limit})", 0
    value, note, judge_tokens = {
        "openai": usd if budget.priced else ("", UNPRICED, 0),
        "local": ("local", passes, counts.judge_tokens),
        "probe": ("probe", "no money; one forward pass an answer", counts.generated_tokens),
    }[judging.backend]
    labels = f"read, a judged rate at most to +-{HALF:g} points; at 20 % {labels_alone(20, HALF)}"
    rows = [
        *((f"{name} answers", f"{n:,}", "") for name, n in counts.answers.items()),
        ("forward tokens", f"{counts.forward_tokens:,}", ""),
        ("generated tokens", f"{counts.generated_tokens:,}", "at most"),
        ("trained tokens", f"{counts.trained_tokens:,}", ""),
        ("judgements", f"{counts.judgements:,}", ""),
        ("judge", value, note),
        ("labels needed", f"{labels_alone(50, HALF)}", labels),
        *labels_needed(),
    ]
    if params.more.experiments:
        beside = "of neighbouring papers, minutes each, which are not counted here"
        rows.append(("experiments", f"{len(params.more.experiments)}", beside))
    if (paths.BASE_MODEL / "config.json").is_file():
        config = read_json(paths.BASE_MODEL / "config.json", dict)
        numbers = counts.texts * len(params.activations.spans) * config["num_hidden_layers"]
        size = numbers * config["hidden_size"] * 4
        rows.append(("activations", f"{size / 1e9:,.2f}", "GB of disk"))
    if speed is not None:
        read = counts.forward_tokens + judge_tokens + TRAINED * counts.trained_tokens
        seconds = read / speed[0]
        hours = (seconds + counts.generated_tokens / speed[1]) / 3600
        how = f"at {speed[0]:,.0f} tokens/s forward, {speed[1]:,.0f} generated"
        rows.append(("hours", f"{hours:,.1f}", f"{how}; start-up not counted"))
        if usd_per_hour is not None:
            rows.append(("machine", f"{hours * usd_per_hour:,.0f}", "USD"))
    lines = [f"{label:<22}{value:>14}  {note}".rstrip() for label, value, note in rows]
    return [head, *lines, *([UNKNOWN] if speed is None else [])]


def _samples(params: Params) -> bool:
    """A study of one's own may have no answers."""
    return "sampling" in params.model_fields_set


def labels_needed() -> list[tuple[str, str, str]]:
    """What a finished run says of the labels that its judge leaves to be read, by group."""
    path = paths.table("judged_rates")
    groups = read_results(path) if path.is_file() else Results()
    found = {g: groups.get(f"corrected.{g}.labels_needed") for g in groups.names("corrected")}
    return [
        (f"  {name}", f"{each.value:,.0f}", "with this judge")
        for name, each in found.items()
        if each and each.value
    ]


def progress(params: Params, usd_per_hour: float | None = None) -> list[str]:
    """Long stages that are under way here, the last one that ended, and what remains of the run.

    Args:
        usd_per_hour: price of the machine; None = not counted.
    """
    lines, ended = [], list[tuple[float, str]]()
    answers = {f"{kind} {slug}" for kind in ("baseline", "responses") for slug in params.targets}
    done = made = seconds = 0.0
    for path in sorted(journal_folder().glob("*.progress.json")):
        p = read_json(path, dict)
        fresh, share = p["done"] - p["first"], 100 * p["done"] / max(1, p["total"])
        if p["label"] in answers:
            done, made, seconds = done + p["done"], made + fresh, seconds + p["seconds"]
        changed = path.stat().st_mtime
        when = time.strftime("%d %b %H:%M", time.localtime(changed))
        if p["done"] >= p["total"]:
            ended.append((changed, f"{p['label']}, {p['total']:,} units, {when}"))
            continue
        left = (p["total"] - p["done"]) * p["seconds"] / fresh if fresh else 0.0
        counted = f"{p['done']:>9,} of {p['total']:<9,}{share:>5.0f} %"
        lines.append(f"{p['label']:<34}{counted}  {left / 60:,.0f} min left  ({when})")
    if not lines and not ended:
        return [
            f"no long stage has run here (no progress in {journal_folder()}); "
            "`dvc status` says what is up to date"
        ]
    if ended:
        lines.append(f"long stages that ended: {len(ended)}, the last: {max(ended)[1]}")
    if not _samples(params):
        return lines
    counts = count(params)
    total = sum(counts.answers.values())
    whole = f"whole run: {min(done, total):,.0f} of {total:,} answers"
    if made:
        hours = max(0.0, total - done) * seconds / made / 3600
        money = "" if usd_per_hour is None else f", {hours * usd_per_hour:,.2f} USD of machine"
        whole += f"; {hours:,.2f} h of sampling left at the rate so far{money}"
    lines.append(whole)
    if params.judging.backend == "openai":
        judged = min(_replies(), counts.judgements)
        usd = counts.judge_usd * (1 - judged / counts.judgements)
        left = f"{usd:,.2f} USD left" if Budget(params.judging, 0.0).priced else UNPRICED
        lines.append(f"judge: {judged:,} of {counts.judgements:,} replies; {left}")
    return lines


def _replies() -> int:
    """Replies of paid judges in the journal."""
    path = journal_folder() / "judgements-openai.sqlite"
    if not path.is_file():
        return 0
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as journal:
        return int(journal.execute("SELECT count(*) FROM units").fetchone()[0])


def plan(usd_per_hour: Price = None, params: ParamsFile = PARAMS) -> None:
    """Print what the active profile will cost, before anything is spent."""
    active, speed = load_params(params), None
    if _samples(active) and (paths.BASE_MODEL / RECORD).is_file():
        print("the base model's speed on this machine is measured: a minute or more", flush=True)
        speed = calibrate(active)
    print("\n".join(costs(active, speed, usd_per_hour)))
    if any(True for _ in hub_models(models(active))):
        preflight(active.profile, models(active))
        print("preflight: access, revisions, disk and memory are fine")


def status(usd_per_hour: Price = None, params: ParamsFile = PARAMS) -> None:
    """Print how much of each long stage is done, and what remains."""
    print("\n".join(progress(load_params(params), usd_per_hour)))
