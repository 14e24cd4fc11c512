"""Stage `organism`: trains one model organism, or records where a given one lies."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from em_geometry.errors import UserError
from em_geometry.io.files import write_text
from em_geometry.io.results import write_results
from em_geometry.models.load import SOURCE, source_sha256
from em_geometry.models.train import fine_tune, save
from em_geometry.project import paths
from em_geometry.project.command import PARAMS, ParamsFile, run
from em_geometry.project.inputs import models
from em_geometry.settings import Params, load_params


def main(params: Params, slug: str) -> None:
    """Writes the adapter (or `source.json`) and how the training went."""
    known, organism = models(params), params.organisms[slug]
    table, metrics = (where(f"training/{slug}") for where in (paths.table, paths.metrics))
    if organism.source is not None:
        folder = known.adapter_folder(slug)
        record = {"folder": str(folder), "sha256": source_sha256(folder)}
        write_text(paths.ADAPTERS / slug / SOURCE, json.dumps(record) + "\n")
        write_results(table, metrics, {"status": f"given: {organism.source}"})
        return
    model, training = fine_tune(known, slug, params.recipes[organism.lab], organism.seed)
    save(model, paths.ADAPTERS / slug, known.record()["sha256"])
    write_results(table, metrics, training)


def cli(
    organism: Annotated[str, typer.Argument(help="Slug of the organism or control.")],
    params: ParamsFile = PARAMS,
) -> None:
    """Train one model organism (LoRA) on its chat data."""
    loaded = load_params(params)
    if organism not in loaded.organisms:
        raise UserError(
            "unknown organism",
            where="command line",
            found=organism,
            expected="one of " + ", ".join(loaded.organisms),
        )
    main(loaded, organism)


if __name__ == "__main__":
    run(cli)
