"""Part of `make setup`: the page of `dvc plots show` and `dvc plots diff` without network.

    python -m stages.report.plots_page .venv/plots.html

DVC's own page loads the charts' library from a CDN when it is opened; this one holds it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages.common.artifacts import write_text
from stages.common.command import run
from stages.report.chart import library

HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">{refresh_tag}<title>Plots</title>
<style>body { font: 15px sans-serif; margin: 1rem } img { max-width: 100%; height: auto }</style>
<script>"""
TAIL = "</script></head>\n<body>\n{plot_divs}\n</body></html>\n"


def cli(page: Annotated[Path, typer.Argument(help="Where to write it.")]) -> None:
    """Write the page for `dvc config plots.html_template`."""
    write_text(page, HEAD + library() + TAIL)


if __name__ == "__main__":
    run(cli)
