"""Fixtures of the steering tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_steering as tiny

from em_geometry.io.journal import LOCATION_VARIABLE
from tests.activations.families import our_hooks


@pytest.fixture(scope="session")
def _llama() -> Any:
    return tiny.random_llama()


@pytest.fixture
def llama(_llama: Any) -> Iterator[Any]:
    """The tiny model; no hook may be left on it when a test ends."""
    yield _llama
    assert not our_hooks(_llama)


@pytest.fixture(autouse=True)
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Journals of a test lie in its own folder."""
    folder = tmp_path / "journal"
    monkeypatch.setenv(LOCATION_VARIABLE, str(folder))
    return folder
