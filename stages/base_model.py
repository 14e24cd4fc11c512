"""Stage `base_model`."""

from __future__ import annotations

from em_geometry.models.base import cli
from em_geometry.project.command import run

if __name__ == "__main__":
    run(cli)
