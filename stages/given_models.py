"""Stage `given_models`: what lies at each `path:` source, so that other content is noticed."""

import json

from em_geometry.io.files import write_text
from em_geometry.models.load import watch
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.settings import Params


@stage
def main(params: Params) -> None:
    """Checks and hashes the models that lie in folders; links their files to where DVC looks."""
    for name, (key, source) in params.sources().items():
        sha256 = watch(source or "", key, paths.LINKED / name)
        record = json.dumps({"source": source, "sha256": sha256}) + "\n"
        write_text(paths.GIVEN_MODELS / f"{name}.json", record)
