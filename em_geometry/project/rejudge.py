"""`em-geometry rejudge` and `em-geometry batch`: other judges for answers that are there.

    em-geometry rejudge --backend openai --model gpt-4.1-mini --dry-run
    em-geometry rejudge --answers mine.csv
    make rejudge ARGS="--backend local --model path:/models/qwen --which baseline"

The first writes `data/rejudged/<baseline|steered>/<model>.parquet`: the answers with the scores of
the active judge and, beside them, those of every judge asked in this way (`aligned@<judge>`, ...);
stage `transfer` then counts rates by each of them (plots/judge_settings.csv).
Answers of your own (`question` and `text`) get theirs in `<name>.judged.parquet` beside the file.
The second asks through OpenAI's Batch API; the judging stages then find the replies in the journal.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
import typer

from em_geometry.errors import UserError, explained
from em_geometry.io.files import checked, write_parquet
from em_geometry.io.journal import Journal
from em_geometry.io.records import read_answers
from em_geometry.judging.batch import judge_batch
from em_geometry.judging.judge import UNJUDGED, JudgeRow, rows_of
from em_geometry.judging.openai_judge import JOURNAL, OpenAIJudge
from em_geometry.judging.score import refuse_failed, with_judgements
from em_geometry.judging.validation import raters_agreement
from em_geometry.project import paths
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.project.inputs import judge
from em_geometry.project.judged import judged_folders, with_rejudged
from em_geometry.settings import Judging, Params, load_params

Which = Literal["baseline", "steered"]  # answers


def main(params: Params, which: Which, dry_run: bool, own: Path | None = None) -> None:
    """Judges every target's answers, or a file of `own` ones; with `dry_run` only counts."""
    if own is None:
        folder, slugs = judged_folders(params)[which]
        out = {slug: paths.REJUDGED / which / f"{slug}.parquet" for slug in slugs}
        frames = {slug: with_rejudged(folder / f"{slug}.parquet", out[slug]) for slug in slugs}
    else:
        out = {own.stem: own.with_name(f"{own.stem}.judged.parquet")}
        frames = {own.stem: with_rejudged(own, out[own.stem], read_answers)}
        if out[own.stem].is_file() and not any("@" in c for c in frames[own.stem].columns):
            raise UserError(
                "judgements of other answers lie there", where=out[own.stem],
                found="other texts, or in another order", expected=f"the answers of {own}",
                hint="move that file away to keep it, or rename yours",
            )  # fmt: skip
    if dry_run:
        print(plan(params, [row for frame in frames.values() for row in rows_of(frame)]))
        return
    asked = []
    with judge(params) as active:
        for slug, frame in frames.items():
            found = active.judge(
                rows_of(frame), f"rejudge {which if own is None else 'own'} {slug}"
            )
            asked.append(with_judgements(frame.select("question", "text"), found))
            frame = with_judge(frame, asked[-1], active.id, params.judging.aspects)
            write_parquet(out[slug], frame, {"model": slug})
            print(summary(slug, frame, params.judging))
            print(f"  all scores: {out[slug]}")
    refuse_failed(asked, params.judging.allow_errors)


def with_judge(
    frame: pl.DataFrame, asked: pl.DataFrame, judge: str, aspects: Sequence[str]
) -> pl.DataFrame:
    """A frame with a judge's scores in columns of their own.

    Where nothing came back, what the same judge said earlier stays.
    """
    for aspect in aspects:
        status = f"{aspect}_status"
        own = [asked[name].alias(f"{name}@{judge}") for name in (aspect, status)]
        if own[0].name in frame.columns:
            came = ~asked[status].is_in(UNJUDGED)
            own = [each.zip_with(came, frame[each.name]) for each in own]
        frame = frame.with_columns(own)
    return frame


def plan(params: Params, rows: Sequence[JudgeRow]) -> str:
    """What judging would take: counts, tokens and cost; asks nobody and loads no model."""
    backend = params.judging.backend
    if backend != "openai":
        return f"{backend}: {len(set(rows))} distinct of {len(rows)} rows, in process, free"
    with judge(params) as active:
        return str(active.plan(rows)) if isinstance(active, OpenAIJudge) else active.id


def summary(slug: str, frame: pl.DataFrame, judging: Judging) -> str:
    """Mean scores of all judges of a target's answers, and their agreement in pairs."""
    names = [c for c in frame.columns if c == "aligned" or c.startswith("aligned@")]
    scores = {n: frame[n].cast(pl.Float64).to_numpy() for n in names}
    lines = [f"{slug}:"]
    for name, values in scores.items():
        if not np.isnan(values).all():
            bad = 100 * np.mean(values[~np.isnan(values)] < judging.aligned_below)
            mean = f"mean {np.nanmean(values):.1f}, misaligned {bad:.1f} %"
            lines.append(f"  {name.removeprefix('aligned@')}: {mean}")
    for pair, found in raters_agreement(scores, judging).items():
        shown = (f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items())
        lines.append(f"  {pair}: {', '.join(shown)}")
    return "\n".join(lines)


def cli(
    which: Annotated[Which, typer.Option(help="Which answers.")] = "steered",
    backend: Annotated[str | None, typer.Option(help="probe | openai | local")] = None,
    model: Annotated[str | None, typer.Option(help="The judge's model.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Its endpoint (openai).")] = None,
    templates: Annotated[str | None, typer.Option(help="Folder of <aspect>.txt.")] = None,
    extra_body: Annotated[str | None, typer.Option(help="More keys of its requests, JSON.")] = None,
    prices: Annotated[tuple[float, float] | None, typer.Option(
        help="USD per million tokens, in and out: --prices 0.15 0.6")] = None,
    answers: Annotated[Path | None, typer.Option(help="Your own: Parquet, CSV or JSONL.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Print counts, tokens and cost only.")] = False,
    params: ParamsFile = PARAMS,
) -> None:  # fmt: skip
    """Score the existing answers with another judge; options stand for those of params.yaml."""
    loaded = load_params(params)
    given: dict[str, Any] = {
        "backend": backend,
        "model": model,
        "base_url": base_url,
        "templates": templates,
    }
    if prices is not None:
        given |= dict(zip(("usd_per_million_input", "usd_per_million_output"), prices, strict=True))
    if extra_body is not None:
        with explained("not a JSON object", "--extra-body", 'e.g. {"reasoning_effort": "none"}'):
            given["extra_body"] = json.loads(extra_body)
    changes = {key: value for key, value in given.items() if value is not None}
    changed = checked(Judging, loaded.judging.model_dump() | changes, "command line")
    main(loaded.model_copy(update={"judging": changed}), which, dry_run, answers)


def batch(answers: Path, params: ParamsFile = PARAMS) -> None:
    """Judge a file of answers (question, text) at half the price, within a day."""
    frame, settings = read_answers(answers), load_params(params).judging
    if settings.backend != "openai":
        what, where = "the Batch API is one of an endpoint", f"{params}: judging.backend"
        raise UserError(what, where=where, found=settings.backend, expected="openai, and a model")
    with Journal(JOURNAL) as journal:
        found = judge_batch(OpenAIJudge(settings, journal), rows_of(frame))
    lost = sum(any(s in UNJUDGED for s in judgement.status.values()) for judgement in found)
    print(f"{len(found) - lost} of {len(found)} answers judged")
    refuse_failed([with_judgements(frame, found)], settings.allow_errors)
