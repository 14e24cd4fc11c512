"""Stage `judgements`."""

from __future__ import annotations

from em_geometry.judging.judge_responses import Which, main
from em_geometry.project.command import PARAMS, ParamsFile, run
from em_geometry.settings.params import load_params


def cli(params: ParamsFile = PARAMS) -> None:
    """Score every model's answers with the active judge."""
    main(load_params(params), Which.steered)


if __name__ == "__main__":
    run(cli)
