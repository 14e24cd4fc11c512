"""The charts' library as text, inlined in the report and in the page of `dvc plots`.

    python -m em_geometry.report.vega .venv/plots.html

DVC's own page of `dvc plots show` and `dvc plots diff` loads the library from a CDN when it is
opened; the one that this writes for `make setup` holds it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from em_geometry.io.files import write_text
from em_geometry.project.command import run

HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">{refresh_tag}<title>Plots</title>
<style>body { font: 15px sans-serif; margin: 1rem } img { max-width: 100%; height: auto }</style>
<script>"""
TAIL = "</script></head>\n<body>\n{plot_divs}\n</body></html>\n"


def vega_script() -> str:
    """Vega, Vega-Lite and the embedding as one script that needs no network."""
    import vl_convert as vlc

    text: str = vlc.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def cli(page: Annotated[Path, typer.Argument(help="Where to write it.")]) -> None:
    """Write the page for `dvc config plots.html_template`."""
    write_text(page, HEAD + vega_script() + TAIL)


if __name__ == "__main__":
    run(cli)
