"""Quotas, torn files and kills: a message, and nothing lost."""

import os
import resource
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from em_geometry.errors import UserError
from em_geometry.io.files import PARTIAL, atomic_path
from em_geometry.io.journal import Journal
from em_geometry.io.results import write_metrics

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 256 * 1024  # bytes that the storage leaves; what is written at length has more
HEAD = """
import sys
import numpy as np
import polars as pl
from pathlib import Path
from em_geometry.io.files import write_parquet, write_tensors
from em_geometry.project.command import application as run
from em_geometry.io.results import write_metrics
from em_geometry.io.journal import Journal
n = int(sys.argv.pop(1))
rng = np.random.default_rng(n)
def answer(batch):
    return [rng.bytes(4000).hex() for _ in batch]
def fill():
    with Journal("work") as journal:
        journal.fill("work", [[i] for i in range(n)], str, answer)
"""
# What writes a lot of n = 1000 and little of n = 1.
KINDS = {
    "journal": "fill()",
    "parquet": 'write_parquet(Path("out"), pl.DataFrame({"a": rng.random(1000 * n)}), {})',
    "safetensors": 'write_tensors(Path("out"), {"a": rng.random(1000 * n)}, {})',
    "metrics": 'write_metrics(Path("out"), {str(i): float(i) for i in range(100 * n)})',
    "folder": """
    from safetensors.numpy import save_file
    from em_geometry.io.files import atomic_path
    with atomic_path(Path("out"), folder=True) as temporary:
        save_file({"a": rng.random(1000 * n)}, temporary / "model.safetensors")
""",
}


def write(kind: str, folder: Path, n: int, limited: bool = False) -> subprocess.CompletedProcess:
    """A command that writes, in a process of its own, with a limit on the size of files or none."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    return subprocess.run(
        [sys.executable, "-c", f"{HEAD}def f():\n    {KINDS[kind].strip()}\nrun(f)()", str(n)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "EMGEOMETRY_JOURNAL": str(folder / "journal")},
        text=True,
        capture_output=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_FSIZE, (LIMIT, limit) if limited else (limit, limit)
        ),
    )


def results(folder: Path) -> dict[str, bytes]:
    """What lies there, the journal aside; nothing half-written may be among it."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "journal" not in path.parts
    }
    assert not [name for name in found if PARTIAL in name]
    return found


def journalled(folder: Path) -> int:
    with sqlite3.connect(folder / "journal/work.sqlite") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(database.execute("SELECT count(*) FROM units").fetchone()[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_may_not_grow(kind: str, tmp_path: Path) -> None:
    """RLIMIT_FSIZE, what a quota does, without rights: nothing changes, and then it goes on."""
    assert write(kind, tmp_path, 1).returncode == 0
    before = results(tmp_path)
    done = write(kind, tmp_path, 1000, limited=True)
    assert done.returncode == 2, done.stderr
    assert ("work.sqlite" if kind == "journal" else "out") in done.stderr.split("error: ")[1]
    assert "Traceback" not in done.stderr
    assert results(tmp_path) == before
    kept = journalled(tmp_path) if kind == "journal" else 0
    again = write(kind, tmp_path, 1000)
    assert again.returncode == 0, again.stderr
    if kind == "journal":
        assert 1 <= kept < 1000 == journalled(tmp_path)
        assert f"{kept} of 1000 units" in again.stderr
    else:
        assert results(tmp_path).keys() <= before.keys() and results(tmp_path) != before


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(UserError, match="cannot write") as caught:
        write_metrics(tmp_path / "data/m.json", {"a": 1})
    assert str(tmp_path / "data/m.json") in str(caught.value)
    (tmp_path / "m.json").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        write_metrics(tmp_path / "m.json", {"a": 1})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "m.json"]


@pytest.mark.parametrize("folder", [False, True])
def test_killed_in_the_middle_of_a_write(folder: bool, tmp_path: Path) -> None:
    """The earlier result stands, and the next write takes away what was left."""
    out = tmp_path / "o[u]t.safetensors"
    part = "part" if folder else "."

    def write_part(text: bytes) -> None:
        with atomic_path(out, folder) as temporary:
            (temporary / part).write_bytes(text)

    write_part(b"earlier")
    pid = os.fork()
    if not pid:
        with atomic_path(out, folder) as temporary:
            (temporary / part).write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert (out / part).read_bytes() == b"earlier"
    left = [p for p in tmp_path.iterdir() if p != out]
    assert left and all(PARTIAL in p.name for p in left)
    write_part(b"next")
    assert (out / part).read_bytes() == b"next"
    assert list(tmp_path.iterdir()) == [out]


def test_what_is_half_written_belongs_to_no_artifact() -> None:
    """DVC and Git pass over it, wherever it lies."""
    for name in (".dvcignore", ".gitignore"):
        rules = (ROOT / name).read_text(encoding="utf-8").splitlines()
        assert {f".*{PARTIAL}", f".*{PARTIAL}.*"} <= set(rules)


@pytest.fixture
def journal_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMGEOMETRY_JOURNAL", str(tmp_path))
    return tmp_path / "work.sqlite"


UNITS = {f"{i:04d}": f"value {i:04d} " * 40 for i in range(100)}


def crash(path: Path) -> None:
    """A process that is killed after it has stored UNITS one by one: they lie in the WAL."""
    code = (
        "import os\nfrom em_geometry.io.journal import Journal\n"
        "from tests.faults.test_storage import UNITS\n"
        "journal = Journal('work')\n"
        "for key in UNITS:\n    journal.put({key: UNITS[key]})\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == -signal.SIGKILL
    assert wal(path).stat().st_size > 100_000


def wal(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def remade() -> list[str]:
    """Keys that were made again; in the end the journal is whole."""
    made: list[str] = []

    def work(batch: list[str]) -> list[str]:
        made.extend(batch)
        return [UNITS[key] for key in batch]

    with Journal("work") as journal:
        assert journal.fill("work", [[key] for key in UNITS], str, work) == UNITS  # type: ignore[arg-type]
    with Journal("work") as journal:
        assert journal.get(list(UNITS)) == UNITS
    return made


@pytest.mark.parametrize("cut", [1, 40, 4096 + 24, 20_000])
def test_a_torn_last_record(journal_file: Path, cut: int) -> None:
    """The log ends in the middle of a record: only the records that it cuts are made again."""
    crash(journal_file)
    with wal(journal_file).open("r+b") as handle:
        handle.truncate(wal(journal_file).stat().st_size - cut)
    made = remade()
    assert made == list(UNITS)[-len(made) :]
    assert 1 <= len(made) <= 1 + cut // 500


def test_a_flipped_bit_in_the_log(journal_file: Path) -> None:
    """SQLite's own checksums end the log there."""
    crash(journal_file)
    content = bytearray(wal(journal_file).read_bytes())
    at = content.index(b"value 0060")
    content[at + 7] ^= 1
    wal(journal_file).write_bytes(content)
    made = remade()
    assert made == list(UNITS)[-len(made) :]
    assert "0060" in made and len(made) < 60
