"""Stage `paper_reference`."""

from __future__ import annotations

from em_geometry.claims.published import cli
from em_geometry.project.command import run

if __name__ == "__main__":
    run(cli)
