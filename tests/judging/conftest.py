"""A journal of judgements in a folder of its own, no key, and retries without long waits."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from em_geometry.io.journal import Journal
from em_geometry.judging import batch, client
from em_geometry.judging.client import KEY_VARIABLE
from em_geometry.judging.openai_judge import JOURNAL


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.setattr(client, "BACKOFF_S", 0.01)
    monkeypatch.setattr(batch, "POLL_S", 0.01)


@pytest.fixture
def journal(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    monkeypatch.setenv("EMGEOMETRY_JOURNAL", str(tmp_path / "journal"))
    with Journal(JOURNAL) as opened:
        yield opened
