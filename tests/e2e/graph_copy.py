"""A copy of the repository in which the reduced graph runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ["stages", "data", "tests/e2e", "dvc.yaml", ".dvcignore"]
OUTPUTS = [
    "models", "adapters", "activations", "baseline", "response_activations", "judge_model",
    "vectors", "responses", "damage", "judgements",
]  # fmt: skip


def dvc(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    scripts = Path(sys.executable).parent
    env = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
