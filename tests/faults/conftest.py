"""What faults are done to: the miniature."""

from pathlib import Path

import pytest

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
