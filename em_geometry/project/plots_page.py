"""The page of `dvc plots show` and `dvc plots diff`, with the charts' library inside.

DVC's own page loads the library from a CDN when it is opened; `make setup` writes this one for
`dvc config plots.html_template`.
"""

from pathlib import Path
from typing import Annotated

import typer
import vl_convert

from em_geometry.io.files import write_text
from em_geometry.project.command import application

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">{refresh_tag}<title>Plots</title>
<style>body { font: 15px sans-serif; margin: 1rem } img { max-width: 100%; height: auto }</style>
<script>LIBRARY</script></head>
<body>
{plot_divs}
</body></html>
"""


def cli(page: Annotated[Path, typer.Argument(help="Where to write it.")]) -> None:
    """Write the page for `dvc config plots.html_template`."""
    library: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    library = library.replace("</script", "<\\/script").replace("<!--", "<\\!--")
    write_text(page, PAGE.replace("LIBRARY", library))


if __name__ == "__main__":
    application(cli)()
