"""Stage `base_model`: resolves `base.source` into data/models/base, fetched or converted."""

import json

from em_geometry.io.files import write_text
from em_geometry.models.checkpoint import RECORD, write_base
from em_geometry.models.preflight import preflight
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import models
from em_geometry.settings import BASE, Params


@stage
def main(params: Params) -> None:
    """Converts or records the base; it has a folder among the adapters, as every target has."""
    preflight(params.profile, models(params))
    record = write_base(params.base, paths.BASE_MODEL)
    none = json.dumps({"adapter": "none: the base itself"}) + "\n"
    write_text(paths.ADAPTERS / BASE / RECORD, none)
    print(f"base model: {params.base.source}, sha256 {record['sha256'][:12]}")
