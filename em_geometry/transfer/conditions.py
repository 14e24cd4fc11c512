"""Judged answers as conditions: their names, their rates, and draws that share the questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from em_geometry.io.files import read_parquet
from em_geometry.judging.judge import statuses
from em_geometry.judging.rates import (
    RateMatrix,
    RateName,
    Rates,
    bootstrap_rate_matrix,
    rates,
)
from em_geometry.settings.params import Params
from em_geometry.steering.respond import UNSTEERED

if TYPE_CHECKING:
    import polars as pl

JUDGEMENTS = Path("data/judgements")
BASELINE = Path("data/baseline/judgements")


def name(target: str, source: str = UNSTEERED, kind: str = "unsteered", multiple: float = 0) -> str:
    """The name of a condition: target, kind, source and multiple of the chosen coefficient."""
    return f"{target}|{kind}|{source}|{multiple:g}"


def read_judgements(folder: Path, params: Params) -> pl.DataFrame:
    """Judged answers with the columns `condition` and `status`: of all targets, or the steered."""
    import polars as pl

    models = params.targets if folder == BASELINE else params.steered()
    frame = pl.concat([read_parquet(folder / f"{m}.parquet") for m in models])
    return frame.with_columns(
        condition=pl.Series(
            [name(*row) for row in frame.select("target", "source", "kind", "multiple").iter_rows()]
        ),
        status=pl.Series(statuses(frame, params.judging.aspects), dtype=pl.String),
    )


def rates_of(frame: pl.DataFrame, params: Params) -> Rates:
    """Both rates of a set of judged answers, with intervals."""
    return rates(frame["aligned"], frame["coherent"], frame["status"], params.judging)


def draws_of(
    frame: pl.DataFrame, params: Params, rate: RateName | None = None, aspect: str = "aligned"
) -> RateMatrix:
    """The compared rate of every condition, bootstrapped over shared questions.

    Args:
        rate: instead of `transfer.rate`; "mean_aligned" gives the mean of `aspect`, in points.
    """
    return bootstrap_rate_matrix(
        frame[aspect],
        frame["coherent"],
        frame["status"],
        frame["question_id"],
        frame["condition"],
        judging=params.judging,
        seed=params.run.seed,
        replicates=params.transfer.bootstrap,
        rate=rate or params.transfer.rate,
    )
