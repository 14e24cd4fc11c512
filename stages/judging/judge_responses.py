"""Stages `baseline_judgements@<model>` and `judgements@<model>`: scores of sampled answers."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from stages.common.artifacts import read_parquet, write_parquet
from stages.common.command import PARAMS, ParamsFile, run
from stages.common.params import Params, load_params
from stages.judging.score import active_judge, judged


class Which(StrEnum):
    """Unsteered answers of the baseline, or steered ones."""

    baseline = "baseline"
    steered = "steered"


FOLDERS = {
    Which.baseline: (Path("data/baseline/responses"), Path("data/baseline/judgements")),
    Which.steered: (Path("data/responses"), Path("data/judgements")),
}


def main(params: Params, which: Which, slug: str) -> None:
    """Judges the answers of target `slug`."""
    source, out = FOLDERS[which]
    frame = read_parquet(source / f"{slug}.parquet")
    with active_judge(params) as judge:
        result = judged(params, judge, frame, f"judge {which} {slug}")
        write_parquet(out / f"{slug}.parquet", result, {"model": slug, "judge": judge.id})


def cli(
    which: Annotated[Which, typer.Argument(help="Which answers.")],
    model: Annotated[str, typer.Argument(help="Slug of the target: base, organism or control.")],
    params: ParamsFile = PARAMS,
) -> None:
    """Score one model's answers with the active judge."""
    loaded = load_params(params)
    main(loaded, which, loaded.target(model))


if __name__ == "__main__":
    run(cli)
