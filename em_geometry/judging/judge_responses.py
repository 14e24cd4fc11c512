"""Stages `baseline_judgements` and `judgements`: scores of sampled answers."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from em_geometry.io.files import read_parquet, write_parquet
from em_geometry.judging.score import active_judge, judged
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.settings.params import Params, load_params


class Which(StrEnum):
    """Unsteered answers of the baseline, or steered ones."""

    baseline = "baseline"
    steered = "steered"


FOLDERS = {
    Which.baseline: (Path("data/baseline/responses"), Path("data/baseline/judgements")),
    Which.steered: (Path("data/responses"), Path("data/judgements")),
}


def main(params: Params, which: Which) -> None:
    """Judges the answers of every target, or of those that are steered."""
    source, out = FOLDERS[which]
    models = params.targets if which is Which.baseline else params.steered()
    with active_judge(params) as judge:
        for slug in models:
            frame = read_parquet(source / f"{slug}.parquet")
            result = judged(params, judge, frame, f"judge {which} {slug}")
            write_parquet(out / f"{slug}.parquet", result, {"model": slug, "judge": judge.id})


def cli(
    which: Annotated[Which, typer.Argument(help="Which answers.")],
    params: ParamsFile = PARAMS,
) -> None:
    """Score every model's answers with the active judge."""
    main(load_params(params), which)
