"""A folder in which the whole graph has run in miniature, and an environment of a stranger."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.e2e.graph import ROOT, copy_graph, dvc


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_graph(tmp_path_factory.mktemp("graph") / "with space")
    done = dvc(folder, "repro")
    assert done.returncode == 0, done.stdout[-6000:]
    return folder


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a new environment in which `pip install .` was run.

    What the package needs is found in the environment of this test, so nothing is fetched.
    """
    root = tmp_path_factory.mktemp("clean")
    for name in ("em_geometry", "stages"):
        shutil.copytree(ROOT / name, root / "source" / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, root / "source")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / "env"], check=True)
    python = root / "env/bin/python"
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.check_output(asked, text=True).strip())
    (packages / "tests.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", root / "source"], check=True)
    return python
