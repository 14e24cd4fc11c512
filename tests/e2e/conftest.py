"""A folder in which the whole graph has run on the real base model, in miniature."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from graph_copy import COPIED, OUTPUTS, ROOT, dvc


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the reduced graph has run."""
    folder = tmp_path_factory.mktemp("graph") / "with space"
    folder.mkdir()
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
    part = [r for r in rows if int(json.loads(r)["question_id"][1:]) % 4 == 0]
    (folder / "tests/e2e/labelled.jsonl").write_text("\n".join(part) + "\n", encoding="utf-8")
    assert dvc(folder, "init", "--no-scm", "-q").returncode == 0
    done = dvc(folder, "repro")
    assert done.returncode == 0, done.stdout[-6000:]
    return folder
