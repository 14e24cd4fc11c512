"""Resumable work: finished units survive a kill, and nothing is paid for twice.

A journal is one SQLite file outside DVC's outs (`.journal/`, or `EMGEOMETRY_JOURNAL`, which
must be absolute because `dvc exp` runs in temporary copies of the repository). Units are keyed
by a hash of everything that determines them, so one journal serves all branches and experiments.
SQLite commits are atomic, so a killed write leaves the units before it; each value carries a
checksum, so a damaged one is seen, dropped and made again.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from em_geometry.errors import UserError, explained
from em_geometry.progress import Progress

LOCATION_VARIABLE = "EMGEOMETRY_JOURNAL"
OPEN = """
PRAGMA journal_mode=WAL;
PRAGMA synchronous=NORMAL;
CREATE TABLE IF NOT EXISTS units (key TEXT PRIMARY KEY, value BLOB NOT NULL, crc INTEGER NOT NULL)
WITHOUT ROWID;
"""
LOOK_UP = "SELECT key, value, crc FROM units WHERE key IN (SELECT value FROM json_each(?))"

Item = TypeVar("Item")
# Does batches elsewhere: (index, values) of each as it is finished.
Spread = Callable[[Sequence[Any]], Iterator[tuple[int, Any]]]


def journal_folder() -> Path:
    """Where journals lie: `EMGEOMETRY_JOURNAL` or `.journal`; UserError when not absolute."""
    folder = Path(os.environ.get(LOCATION_VARIABLE, ".journal"))
    if LOCATION_VARIABLE in os.environ and not folder.is_absolute():
        raise UserError(
            "the journal's folder must be an absolute path",
            where=f"environment variable {LOCATION_VARIABLE}",
            found=os.environ[LOCATION_VARIABLE],
            expected="an absolute path",
        )
    return folder


class Journal:
    """Key-value store of finished units; one writer at a time.

    Args:
        name: one journal a kind of work, e.g. `responses-finance`.
    Raises:
        UserError: another process is writing to it, or the file is no journal.
    """

    def __init__(self, name: str) -> None:
        from filelock import FileLock, Timeout

        folder = journal_folder()
        self.path = folder / f"{name}.sqlite"
        lock = FileLock(str(self.path) + ".lock", timeout=1)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            hint = "wait for it, or stop it; finished units are kept"
            what = "another process is writing to this journal"
            raise UserError(what, where=self.path, hint=hint) from None
        except OSError as error:
            raise UserError(
                "the journal's folder cannot be made or written to",
                where=folder,
                found=error.strerror or error,
                hint="make it writable, or name another one in " + LOCATION_VARIABLE,
            ) from None
        with ExitStack() as opened:
            opened.callback(lock.release)
            with self._explained():
                self._db = sqlite3.connect(self.path)
                opened.callback(self._db.close)
                self._db.executescript(OPEN)
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def _explained(self) -> AbstractContextManager[None]:
        """A damaged file or a full disk as a UserError."""
        return explained(
            "the journal cannot be read or written",
            self.path,
            "a sound SQLite file, and space beside it",
            "free disk space, or move a damaged file away; its units are made again",
            (sqlite3.DatabaseError,),
        )

    def get(self, keys: Sequence[str]) -> dict[str, Any]:
        """The values of those `keys` that are there and whole; damaged ones are dropped."""
        found, damaged = {}, []
        with self._explained():
            for key, value, crc in self._db.execute(LOOK_UP, [json.dumps(keys)]):
                if zlib.crc32(value) == crc:
                    found[key] = json.loads(value)
                else:
                    damaged.append([key])
            if damaged:
                with self._db:
                    self._db.executemany("DELETE FROM units WHERE key = ?", damaged)
        return found

    def put(self, units: Mapping[str, Any]) -> None:
        """Stores JSON-able values, all or none of them."""
        blobs = {k: json.dumps(value, ensure_ascii=False).encode() for k, value in units.items()}
        rows = [(key, blob, zlib.crc32(blob)) for key, blob in blobs.items()]
        with self._explained(), self._db:
            self._db.executemany("INSERT OR REPLACE INTO units VALUES (?, ?, ?)", rows)

    def fill(
        self,
        label: str,
        batches: Sequence[Sequence[Item]],
        key: Callable[[Item], str],
        work: Callable[[Sequence[Item]], Sequence[Any]],
        spread: Spread | None = None,
    ) -> dict[str, Any]:
        """Does what is missing of `batches` and returns all values by key.

        The batches are those of the whole plan, whatever is already there: a unit is then always
        made in the company in which an undisturbed run would have made it, to the same bytes. A
        unit that is there, because another plan holds it too, stays as it is: else the plan that
        made it first would find other last digits when it is run again.

        Args:
            batches: the plan; a batch is done whole and stored whole.
            key: hash of everything that determines an item's value.
            work: values of a batch's items, in order.
            spread: does batches elsewhere; None = here.
        """
        keys = [[key(item) for item in batch] for batch in batches]
        total = sum(map(len, keys))
        values = self.get([k for batch in keys for k in batch])
        missing = [i for i, batch in enumerate(keys) if any(k not in values for k in batch)]
        done = total - sum(len(keys[i]) for i in missing)
        first, start = done, time.monotonic()
        with Progress(label, total, done, unit="units") as progress:
            todo = [batches[i] for i in missing]
            for place, made in spread(todo) if spread else enumerate(map(work, todo)):
                redone = zip(keys[missing[place]], made, strict=True)
                fresh = {k: value for k, value in redone if k not in values}
                self.put(fresh)
                values |= fresh
                progress.advance(len(made))
                about = {"label": label, "total": total, "first": first, "done": progress.n}
                self._tell(about | {"seconds": time.monotonic() - start})
        return values

    def _tell(self, about: Mapping[str, Any]) -> None:
        """How far the work is, for `make status`; on a full disk the next `put` says so."""
        new = self.path.with_suffix(".progress.new")
        with suppress(OSError):
            new.write_text(json.dumps(about))
            new.replace(self.path.with_suffix(".progress.json"))
