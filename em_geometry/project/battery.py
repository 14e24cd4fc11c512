"""`em-geometry battery`: the battery on anybody's matrix of cosines.

em-geometry battery cosines.csv --clusters a=x,y --clusters b=z,w --table
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from em_geometry.geometry import battery
from em_geometry.geometry.inputs import parse_clusters, parse_norms, read_cosines
from em_geometry.io.files import nest
from em_geometry.settings import Geometry


def cli(
    cosines: Annotated[Path, typer.Argument(help="CSV with a header of names, or JSON.")],
    more: Annotated[list[str] | None, typer.Argument(help="Further clusters.")] = None,
    clusters: Annotated[list[str] | None, typer.Option(help="name=member,member")] = None,
    norms: Annotated[
        str | None, typer.Option(help="Raw norms in the file's order: 1.2,0.9")
    ] = None,
    focus: Annotated[str | None, typer.Option(help="Clusters to compare: a,b")] = None,
    table: Annotated[bool, typer.Option("--table", help="Print tables, not JSON.")] = False,
) -> None:
    """Run the battery on a matrix of cosines and print every statistic."""
    names, gram = read_cosines(cosines)
    found = battery(
        gram,
        parse_clusters([*(clusters or []), *(more or [])]),
        Geometry().model_copy(update={"focus": focus.split(",") if focus else []}),
        names=names,
        norms=parse_norms(norms, len(names)) if norms else None,
    )
    print(found if table else json.dumps(nest(found.flat()), indent=1))
