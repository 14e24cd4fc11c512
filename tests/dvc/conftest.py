"""A tiny repository with a graph, a remote folder, and a `dvc` that runs in it."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.graph import environment

GRAPH = """\
stages:
  make:
    cmd: python make.py
    deps: [make.py]
    params: [size]
    outs: [data/folder]
  count:
    cmd: python -c "import os, json; print(json.dumps(len(os.listdir('data/folder'))))" > count.json
    deps: [data/folder]
    metrics:
      - count.json: {cache: false}
"""
MAKE = """\
import pathlib, yaml
size = yaml.safe_load(open('params.yaml'))['size']
folder = pathlib.Path('data/folder')
folder.mkdir(parents=True, exist_ok=True)
for i in range(4):
    (folder / f'{i}.bin').write_bytes(bytes([i, 255]) * size)
"""


@dataclass
class Place:
    """A repository in a folder."""

    folder: Path
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            **environment(),
            "HOME": str(self.home),
            "DVC_SITE_CACHE_DIR": str(self.home / "site"),
            "DVC_NO_ANALYTICS": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }

    def run(self, *command: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert not ok or done.returncode == 0, done.stdout
        return done

    def dvc(self, *arguments: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "dvc", *arguments, ok=ok)

    def verify(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = "-m", "em_geometry.cli", "verify-cache"
        return self.run(sys.executable, *command, *arguments, ok=False)

    def git(self, *arguments: str) -> str:
        who = ("-c", "user.name=Test", "-c", "user.email=test@localhost")
        return self.run("git", *who, *arguments).stdout

    def contents(self) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in sorted((self.folder / "data/folder").iterdir())}


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny graph, run, pushed and committed; copied by each test."""
    root = tmp_path_factory.mktemp("tiny")
    place = Place(root / "work", root / "home")
    place.folder.mkdir()
    for name, text in {
        "dvc.yaml": GRAPH, "make.py": MAKE, "params.yaml": "size: 5000\n", ".gitignore": "/data\n",
    }.items():  # fmt: skip
        (place.folder / name).write_text(text)
    place.git("init", "-q", "-b", "main")
    place.dvc("init", "-q")
    place.dvc("remote", "add", "-q", "-d", "shared", "../remote")
    place.dvc("remote", "modify", "-q", "shared", "verify", "true")
    place.dvc("repro", "-q")
    place.git("add", "-A")
    place.git("commit", "-qm", "run")
    place.dvc("push", "-q")
    return root


@pytest.fixture
def place(template: Path, tmp_path: Path) -> Place:
    shutil.copytree(template, tmp_path / "t", symlinks=True)
    return Place(tmp_path / "t/work", tmp_path / "t/home")
