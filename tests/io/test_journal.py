"""The journal: what a kill, a flipped bit and a second process do to it."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from em_geometry.errors import UserError
from em_geometry.io.journal import Journal, journal_folder

ROOT = Path(__file__).resolve().parents[2]
PLAN = [[1, 2, 3], [4, 5], [6, 7, 8]]
VALUES = {str(i): {"square": i * i} for batch in PLAN for i in batch}


class Work:
    """Squares the items, remembers the batches, and kills its process at one of them."""

    def __init__(self, killed_at: int | None = None) -> None:
        self.batches: list[list[int]] = []
        self.killed_at = killed_at

    def __call__(self, batch: Sequence[int]) -> list[dict[str, int]]:
        if len(self.batches) == self.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.batches.append(list(batch))
        return [{"square": i * i} for i in batch]


def fill(work: Work) -> dict[str, dict[str, int]]:
    with Journal("squares") as journal:
        return journal.fill("squares", PLAN, str, work)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "journal of größe"
    monkeypatch.setenv("EMGEOMETRY_JOURNAL", str(folder))
    return folder


def in_process(code: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=60)


def done_again() -> list[list[int]]:
    """The batches that a further run works on."""
    work = Work()
    assert fill(work) == VALUES
    return work.batches


@pytest.mark.parametrize("killed_at", [0, 1, 2])
def test_resumes_after_kill_and_does_everything_once(folder: Path, killed_at: int) -> None:
    code = f"from test_journal import Work, fill; fill(Work({killed_at}))"
    assert in_process(code).returncode == -signal.SIGKILL
    assert done_again() == PLAN[killed_at:]
    assert done_again() == []


def test_a_failing_batch_leaves_nothing_of_itself(folder: Path) -> None:
    def fail(batch: Sequence[int]) -> list[int]:
        if 4 in batch:
            raise RuntimeError("out of memory")
        return list(batch)

    with pytest.raises(RuntimeError), Journal("squares") as journal:  # gives its lock back
        journal.fill("squares", PLAN, str, fail)
    with Journal("squares") as journal:
        assert set(journal.get(list(VALUES))) == {"1", "2", "3"}
    with Journal("x") as journal:  # nor does what cannot be stored, or is too little
        with pytest.raises(TypeError):
            journal.put({"1": 1, "2": object()})
        with pytest.raises(ValueError, match="zip"):
            journal.fill("x", [[1, 2]], str, lambda batch: [1])
        assert journal.get(["1", "2"]) == {}


def test_a_missing_unit_or_a_flipped_byte_redoes_its_whole_batch(folder: Path) -> None:
    fill(Work())
    with sqlite3.connect(folder / "squares.sqlite") as database:
        database.execute("DELETE FROM units WHERE key = '5'")
        ((value,),) = database.execute("SELECT value FROM units WHERE key = '7'")
        flipped = value.replace(b"49", b"48")
        assert flipped != value
        database.execute("UPDATE units SET value = ? WHERE key = '7'", (flipped,))
    with Journal("squares") as journal:
        assert set(journal.get(list(VALUES))) == set(VALUES) - {"5", "7"}
    assert done_again() == [[4, 5], [6, 7, 8]]


def test_a_unit_of_two_plans_stays_as_it_was_first_made(folder: Path) -> None:
    """Company changes last digits: what a later plan redoes is not what an earlier one found."""

    def counted(batch: Sequence[int]) -> list[int]:
        return [100 * i + len(batch) for i in batch]

    with Journal("company") as journal:
        first = journal.fill("first", [[1, 2]], str, counted)
        assert journal.fill("later", [[2, 3, 4]], str, counted) == {"2": 202, "3": 303, "4": 403}
        assert journal.fill("first", [[1, 2]], str, counted) == first == {"1": 102, "2": 202}


def test_values_and_many_keys_come_back(folder: Path) -> None:
    values = {f"k{i}": [i, None, "ä\u2028", 0.1 + i] for i in range(20_001)}
    with Journal("x") as journal:
        journal.put(values)
        journal.put({"k0": "newer"})
    with Journal("x") as journal:
        assert journal.get([*values, "other"]) == values | {"k0": "newer"}


def test_two_processes(folder: Path) -> None:
    code = "from em_geometry.io.journal import Journal; Journal('squares')"
    with Journal("squares"):
        done = in_process(code)
    assert "another process is writing to this journal" in done.stderr
    assert str(folder / "squares.sqlite") in done.stderr
    assert in_process(code).returncode == 0  # the lock goes with its holder


def test_its_place_is_absolute_or_the_default_and_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EMGEOMETRY_JOURNAL", raising=False)
    assert journal_folder() == Path(".journal")
    for value in ("journal", "../journal", ""):
        monkeypatch.setenv("EMGEOMETRY_JOURNAL", value)
        with pytest.raises(UserError, match="EMGEOMETRY_JOURNAL"):
            journal_folder()
    (tmp_path / "file").touch()
    monkeypatch.setenv("EMGEOMETRY_JOURNAL", str(tmp_path / "file" / "inside"))
    with pytest.raises(UserError, match="file/inside"):
        Journal("x")


@pytest.mark.parametrize("kept", [0, 4096])
def test_a_file_that_is_no_journal_or_is_damaged(folder: Path, kept: int) -> None:
    with Journal("squares") as journal:
        journal.put({f"{i:04d}": "x" * 500 for i in range(200)})
    path = folder / "squares.sqlite"
    content = path.read_bytes()
    path.write_bytes(content[:kept] + b"\xaa" * (len(content) - kept))
    with pytest.raises(UserError, match="cannot be read") as caught, Journal("squares") as journal:
        journal.get([f"{i:04d}" for i in range(200)])
    assert str(path) in str(caught.value)
    path.unlink()  # what the error advises
    assert done_again() == PLAN
