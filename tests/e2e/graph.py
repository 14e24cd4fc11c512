"""A copy of the graph with the reduced profile, and DVC in it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ["em_geometry", "stages", "data", "tests/e2e", "dvc.yaml", ".dvcignore"]
OUTPUTS = [
    "models", "adapters", "activations", "baseline", "response_activations", "judge_model",
    "vectors", "responses", "judgements", "monitoring",
]  # fmt: skip


def environment() -> dict[str, str]:
    """That of this process, with its scripts first and no network."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def dvc(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )


def copy_graph(folder: Path) -> Path:
    """Makes `folder` a DVC repository in which the reduced graph can run."""
    folder.mkdir(parents=True)
    for name in COPIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            skip = shutil.ignore_patterns("__pycache__", *(OUTPUTS if name == "data" else ()))
            shutil.copytree(source, target, ignore=skip)
        else:
            shutil.copy(source, target)
    shutil.copy(ROOT / "tests/e2e/reduced.yaml", folder / "params.yaml")
    rows = (ROOT / "data/judge/labelled.jsonl").read_text(encoding="utf-8").splitlines()
    part = [r for r in rows if int(json.loads(r)["question_id"][1:]) % 6 == 0]
    (folder / "tests/e2e/labelled.jsonl").write_text("\n".join(part) + "\n", encoding="utf-8")
    assert dvc(folder, "init", "--no-scm", "-q").returncode == 0
    return folder
