"""Scores existing answers with another judge or template, without generating anything again.

    em-geometry rejudge --backend openai --model gpt-4.1-mini --dry-run
    make rejudge ARGS="--backend local --model path:/models/qwen --which baseline"

Writes `data/rejudged/<baseline|steered>/<model>.parquet`: the answers with the scores of the
active judge and, beside them, those of every judge asked in this way (`aligned@<judge>`, ...).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from em_geometry.errors import UserError
from em_geometry.io.files import read_parquet, write_parquet
from em_geometry.judging.judge import JudgeRow
from em_geometry.judging.judge_responses import FOLDERS, Which
from em_geometry.judging.openai_judge import OpenAIJudge
from em_geometry.judging.score import active_judge, score
from em_geometry.judging.validation import agreement
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.settings.params import Params, load_params

if TYPE_CHECKING:
    import polars as pl

FOLDER = Path("data/rejudged")


def main(params: Params, which: Which, dry_run: bool) -> None:
    """Judges every target's answers with the judge of `params`; with `dry_run` only counts."""
    import polars as pl

    models = params.targets if which is Which.baseline else params.steered()
    frames = {slug: existing(which, slug) for slug in models}
    rows = {
        slug: [JudgeRow(q, t) for q, t in frame.select("question", "text").iter_rows()]
        for slug, frame in frames.items()
    }
    if dry_run:
        print(plan(params, [row for part in rows.values() for row in part]))
        return
    with active_judge(params) as judge:
        for slug, frame in frames.items():
            found = score(params, judge, rows[slug], f"rejudge {which} {slug}")
            beside = frame.with_columns(
                *(
                    column
                    for a in params.judging.aspects
                    for column in (
                        pl.Series(f"{a}@{judge.id}", [j.scores[a] for j in found], pl.Float64),
                        pl.Series(f"{a}_status@{judge.id}", [j.status[a] for j in found]),
                    )
                )
            )
            write_parquet(FOLDER / which / f"{slug}.parquet", beside, {"model": slug})
            print(summary(slug, beside, params))


def plan(params: Params, rows: list[JudgeRow]) -> str:
    """What judging would take: counts, tokens and cost; asks nobody and loads no model."""
    if params.judging.backend == "openai":
        with active_judge(params) as judge:
            return str(judge.plan(rows)) if isinstance(judge, OpenAIJudge) else judge.id
    return (
        f"{params.judging.backend}: {len(set(rows))} distinct of {len(rows)} rows, in process, free"
    )


def existing(which: Which, slug: str) -> pl.DataFrame:
    """Judged answers of a target, with what earlier runs of this command put beside them."""
    path = FOLDERS[which][1] / f"{slug}.parquet"
    judged, beside = read_parquet(path), FOLDER / which / path.name
    if beside.is_file():
        earlier = read_parquet(beside)
        if earlier.select("question", "text").equals(judged.select("question", "text")):
            extra = [c for c in earlier.columns if "@" in c]
            return judged.with_columns(earlier.select(extra))
    return judged


def summary(slug: str, frame: pl.DataFrame, params: Params) -> str:
    """Mean scores of all judges of a target's answers, and their agreement in pairs."""
    names = ["aligned", *(c for c in frame.columns if c.startswith("aligned@"))]
    scores = {n: np.array(frame[n].cast(float).to_list(), dtype=np.float64) for n in names}
    means = [
        f"  {name.removeprefix('aligned@')}: mean {np.nanmean(values):.1f}, "
        f"misaligned {100 * np.mean(values < params.judging.aligned_below):.1f} %"
        for name, values in scores.items()
        if not np.isnan(values).all()
    ]
    pairs = [
        f"  {pair}: n {found['n']}, "
        + ", ".join(
            f"{k} {v:.2f}" if isinstance(v := found[k], float) else f"{k} {v}"
            for k in ("kappa", "alpha")
        )
        for pair, found in agreement(scores, params).items()
    ]
    return "\n".join([f"{slug}:", *means, *pairs])


def cli(
    which: Annotated[Which, typer.Option(help="Which answers.")] = Which.steered,
    backend: Annotated[str | None, typer.Option(help="probe | openai | local")] = None,
    model: Annotated[str | None, typer.Option(help="The judge's model.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Its endpoint (openai).")] = None,
    templates: Annotated[str | None, typer.Option(help="Folder of <aspect>.txt.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Print counts, tokens and cost only.")] = False,
    params: ParamsFile = PARAMS,
) -> None:
    """Score the existing answers with another judge; options stand for those of params.yaml."""
    loaded = load_params(params)
    given = {"backend": backend, "model": model, "base_url": base_url, "templates": templates}
    changes = {key: value for key, value in given.items() if value is not None}
    judging = loaded.judging.model_dump() | changes
    try:
        changed = loaded.judging.model_validate(judging)
    except ValueError as error:
        raise UserError(
            "no such judge",
            where="command line",
            found=str(error),
            expected="options as in the section judging of params.yaml",
        ) from None
    main(loaded.model_copy(update={"judging": changed}), which, dry_run)
