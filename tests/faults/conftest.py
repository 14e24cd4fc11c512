"""The reduced graph, undisturbed, for whatever is compared with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.graph import copy_graph
from tests.faults.killing import Repro


def talkative(folder: Path) -> Path:
    """The graph in `folder`, whose stages print a line for every unit of progress."""
    copy_graph(folder)
    path = folder / "stages/common/progress.py"
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
