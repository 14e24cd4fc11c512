"""`make analyse VECTORS=dir`: the battery and its power on anybody's vectors, without a model.

One file a vector (.safetensors, .pt, .gguf); writes `analysis.json` and `analysis.txt` beside them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from stages.common.artifacts import write_text
from stages.common.command import run
from stages.common.errors import UserError
from stages.common.sections import Geometry
from stages.geometry import power
from stages.geometry.battery import battery, cluster_indices
from stages.geometry.gram import unit_gram
from stages.geometry.inputs import NAME, parse_clusters
from stages.geometry.resampling import stream
from stages.geometry.table import battery_table, text_table
from stages.steering.formats import SUFFIXES, read_vectors
from stages.steering.hooks import check_vector

DRAWS = 1000  # of the power curve, at each size of a common core


def folder_vectors(folder: Path) -> tuple[list[str], np.ndarray]:
    """Names and vectors [n, width] of a folder, all of one width and one block."""
    files = [p for p in sorted(folder.glob("*")) if p.suffix in SUFFIXES]
    if len(files) < 3:
        raise UserError(
            "the battery needs at least three vectors",
            where=str(folder),
            found=", ".join(p.name for p in files) or "no vector files",
            expected=f"a file a vector: {', '.join(SUFFIXES)}",
            hint="for adapters, name their folders in params.yaml (organisms.<slug>.source: "
            "path:<folder>) and `make repro`: that also makes their vectors",
        )
    names = [p.stem for p in files]
    for name, path in zip(names, files, strict=True):
        if names.count(name) > 1 or not NAME.fullmatch(name):
            raise UserError(
                "a vector's name occurs twice, or holds a space, a dot or `__`",
                where=str(path),
                found=name,
                expected="a name of its own, which the keys of the result are made of",
                hint="rename the file",
            )
    rows = []
    for path in files:
        found = read_vectors(path, layer=-1)
        if len(found) != 1:
            raise UserError(
                "one vector a file", where=str(path), found=f"{len(found)} vectors", expected="1"
            )
        rows.append(found[0])
        check_vector(found[0].vector, rows[0].vector.size, str(path))
    blocks = sorted({row.layer for row in rows})
    if len(blocks) > 1:
        raise UserError(
            "cosines across blocks compare different spaces", where=str(folder),
            found=f"blocks {blocks}", expected="vectors of one block",
        )  # fmt: skip
    return names, np.stack([row.coefficient * row.vector for row in rows])


def cli(
    vectors: Annotated[Path, typer.Argument(help="A folder with one file a vector.")],
    clusters: Annotated[list[str] | None, typer.Argument(help="name=member,member")] = None,
    seed: Annotated[int, typer.Option(help="Of the simulated vectors.")] = 0,
) -> None:
    """Run the battery on a folder of vectors, and say which tests can tell what."""
    names, rows = folder_vectors(vectors)
    groups = parse_clusters(clusters or [])
    members = cluster_indices(names, groups)
    rules, gram = Geometry().model_copy(update={"focus": [*groups][:2]}), unit_gram(rows)
    found = battery(gram, names, groups, rules, np.linalg.norm(rows, axis=1))
    metrics, text = found.metrics(), battery_table(names, found.flat())
    if len(members) > 1:
        curve = power.sweep(
            stream(seed, "analyse"), DRAWS, rows.shape[1], len(names), members,
            power.tightness_of(gram, members), rules,
        )  # fmt: skip
        metrics["power"] = power.verdicts_of(curve)
        header, table = power.curves(curve)
        text += "\n\nProbability of each verdict, by the share of a common core:\n"
        text += text_table(header, table)
    write_text(vectors / "analysis.json", json.dumps(metrics, indent=1) + "\n")
    write_text(vectors / "analysis.txt", text + "\n")
    print(text)


if __name__ == "__main__":
    run(cli)
