"""What faults are done to: the miniature, and the reduced graph, undisturbed."""

from pathlib import Path

import pytest
import yaml

from tests.e2e.graph import copy_graph
from tests.faults.killing import Repro
from tests.faults.miniature import build, copied


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    return build(tmp_path_factory.mktemp("whole"), tiny_checkpoint)


@pytest.fixture
def place(whole: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh miniature as the working folder, with spaces and letters beyond ASCII in its path."""
    folder = copied(whole, workplace / "größe 漢字, a folder")
    monkeypatch.chdir(folder)
    return folder


def talkative(folder: Path, **workers: object) -> Path:
    """The graph in `folder`, whose stages print a line for every unit of progress.

    `workers` is that section of the params.
    """
    copy_graph(folder)
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    params["workers"] = workers
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    path = folder / "em_geometry/progress.py"
    text = path.read_text(encoding="utf-8")
    assert "LINE_SECONDS = 15.0" in text
    path.write_text(text.replace("LINE_SECONDS = 15.0", "LINE_SECONDS = 0.0"), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Repro:
    """The reduced graph after a run that nothing has disturbed."""
    run = Repro(talkative(tmp_path_factory.mktemp("graph") / "g"), {})
    run.run()
    return run
