"""What the params of a project say, made into the objects that the library takes."""

from __future__ import annotations

from em_geometry.models.load import Models
from em_geometry.project import paths
from em_geometry.settings.params import Params


def models(params: Params) -> Models:
    """Where this project's models come from, and how they are loaded."""
    return Models(params.run, params.base, paths.BASE_MODEL, params.organisms, paths.ADAPTERS)
