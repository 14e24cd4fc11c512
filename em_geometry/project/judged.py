"""Judged answers of the run, by every judge that was asked."""

from collections.abc import Callable
from pathlib import Path

import polars as pl

from em_geometry.io.files import read_parquet
from em_geometry.judging.rates import ASPECTS
from em_geometry.project import paths
from em_geometry.settings import Params


def judged_folders(params: Params) -> dict[str, tuple[Path, list[str]]]:
    """Where judged answers lie, and of which models."""
    return {
        "baseline": (paths.BASELINE_JUDGEMENTS, params.answering()),
        "steered": (paths.JUDGEMENTS, params.steered()),
    }


def with_rejudged(
    path: Path, beside: Path, read: Callable[[Path], pl.DataFrame] = read_parquet
) -> pl.DataFrame:
    """Judged answers of a model, with what `em-geometry rejudge` has put beside these very ones."""
    judged = read(path)
    if beside.is_file():
        earlier = read_parquet(beside)
        if earlier.select("question", "text").equals(judged.select("question", "text")):
            return judged.with_columns(earlier.select(c for c in earlier.columns if "@" in c))
    return judged


def by_judge(params: Params) -> dict[str, pl.DataFrame]:
    """Judged answers (target, source, kind, aligned, coherent) by every judge that was asked."""
    parts: dict[str, list[pl.DataFrame]] = {}
    for which, (folder, slugs) in judged_folders(params).items():
        for slug in slugs:
            name = f"{slug}.parquet"
            frame = with_rejudged(folder / name, paths.REJUDGED / which / name)
            others = (c.partition("@")[2] for c in frame.columns if c.startswith("aligned@"))
            columns = {frame["judge"][0]: ""} | {other: f"@{other}" for other in others}
            for name, end in columns.items():
                scores = (pl.col(aspect + end).alias(aspect) for aspect in ASPECTS)
                parts.setdefault(name, []).append(frame.select("target", "source", "kind", *scores))
    return {name: pl.concat(frames) for name, frames in parts.items()}
