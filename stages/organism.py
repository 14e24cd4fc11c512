"""Stage `organism`: trains one model organism (LoRA), or records where a given one lies."""

import json

from em_geometry.errors import UserError
from em_geometry.io.files import write_text
from em_geometry.models.load import SOURCE, source_sha256
from em_geometry.models.train import fine_tune, save
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import models
from em_geometry.project.outputs import put_results
from em_geometry.settings import Params

HEADLINE = ("status", "held_out_loss_after")


def make(params: Params, slug: str) -> None:
    known, organism = models(params), params.organisms[slug]
    if organism.source is not None:
        folder = known.adapter_folder(slug)
        record = {"folder": str(folder), "sha256": source_sha256(folder)}
        write_text(paths.ADAPTERS / slug / SOURCE, json.dumps(record) + "\n")
        put_results(f"training/{slug}", {"status": f"given: {organism.source}"}, HEADLINE)
        return
    recipe, checkpoints = params.recipes[organism.lab], params.training.checkpoints
    model, training, kept = fine_tune(known, slug, recipe, organism.seed, checkpoints)
    save(model, paths.ADAPTERS / slug, known.record()["sha256"], kept)
    put_results(f"training/{slug}", training, HEADLINE)


@stage
def main(params: Params, *slugs: str) -> None:
    """Writes the adapters (or `source.json`) and how the trainings went; all, if none is named."""
    for slug in slugs or params.organisms:
        if slug not in params.organisms:
            known = "one of " + ", ".join(params.organisms)
            raise UserError("unknown organism", where="command line", found=slug, expected=known)
        make(params, slug)
