"""A folder in which the whole graph has run on the real base model, in miniature."""

from pathlib import Path

import pytest

from tests.e2e.graph import copy_graph, dvc


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_graph(tmp_path_factory.mktemp("graph") / "with space")
    done = dvc(folder, "repro")
    assert done.returncode == 0, done.stdout[-6000:]
    return folder
