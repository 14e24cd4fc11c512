"""Stage `baseline_responses`."""

from __future__ import annotations

from em_geometry.project.command import run
from em_geometry.steering.baseline import cli

if __name__ == "__main__":
    run(cli)
