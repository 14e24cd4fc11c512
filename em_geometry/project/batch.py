"""Judges answers through OpenAI's Batch API; the judging stages then find them in the journal."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import typer

from em_geometry.io.files import read_parquet
from em_geometry.io.journal import Journal
from em_geometry.judging.batch import judge_batch
from em_geometry.judging.judge import JudgeRow
from em_geometry.judging.openai_judge import JOURNAL, OpenAIJudge
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.settings import load_params


def cli(answers: Path, params: ParamsFile = PARAMS) -> None:
    """Judge a Parquet file of answers (question, text) at half the price, within a day."""
    frame = read_parquet(answers, {"question": pl.String, "text": pl.String})
    rows = [JudgeRow(q, t) for q, t in frame.select("question", "text").iter_rows()]
    with Journal(JOURNAL) as journal:
        judgements = judge_batch(OpenAIJudge(load_params(params).judging, journal), rows)
    lost = sum("api_error" in judgement.status.values() for judgement in judgements)
    typer.echo(f"{len(judgements) - lost} of {len(judgements)} answers judged")
