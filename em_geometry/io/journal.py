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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from em_geometry.errors import UserError, explained
from em_geometry.progress import Progress

LOCATION_VARIABLE = "EMGEOMETRY_JOURNAL"
LOOKUP = 10_000  # keys in one SELECT

Item = TypeVar("Item")
# Does batches elsewhere: (index, values) of each as it is finished.
Spread = Callable[[Sequence[Any]], Iterator[tuple[int, Any]]]


def journal_folder() -> Path:
    """Where journals lie: `EMGEOMETRY_JOURNAL` or `.journal`; UserError when not absolute."""
    value = os.environ.get(LOCATION_VARIABLE)
    if value is None:
        return Path(".journal")
    if not Path(value).is_absolute():
        raise UserError(
            "the journal's folder must be an absolute path",
            where=f"environment variable {LOCATION_VARIABLE}",
            found=value,
            expected="an absolute path",
        )
    return Path(value)


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
        self._lock = FileLock(str(self.path) + ".lock", timeout=1)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise UserError(
                "another process is writing to this journal",
                where=str(self.path),
                hint="wait for it, or stop it; finished units are kept",
            ) from None
        except OSError as error:
            raise UserError(
                "the journal's folder cannot be made or written to",
                where=str(folder),
                found=error.strerror or str(error),
                hint="make it writable, or name another one in " + LOCATION_VARIABLE,
            ) from None
        try:
            with self._explained():
                self._db = self._opened()
        except UserError:
            self._lock.release()
            raise

    def _opened(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path)
        try:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
            database.execute(
                "CREATE TABLE IF NOT EXISTS units (key TEXT PRIMARY KEY, "
                "value BLOB NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID"
            )
        except sqlite3.Error:
            database.close()
            raise
        return database

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()
        self._lock.release()

    def _explained(self) -> AbstractContextManager[None]:
        """A damaged file or a full disk as a UserError."""
        return explained(
            "the journal cannot be read or written",
            str(self.path),
            "a sound SQLite file, and space beside it",
            "free disk space, or move a damaged file away; its units are made again",
            (sqlite3.DatabaseError,),
        )

    def get(self, keys: Sequence[str]) -> dict[str, Any]:
        """The values of those `keys` that are there and whole; damaged ones are dropped."""
        found: dict[str, Any] = {}
        damaged: list[str] = []
        for start in range(0, len(keys), LOOKUP):
            part = keys[start : start + LOOKUP]
            query = (
                "SELECT key, value, crc FROM units WHERE key IN (SELECT value FROM json_each(?))"
            )
            with self._explained():
                rows = self._db.execute(query, [json.dumps(part)]).fetchall()
            for key, value, crc in rows:
                if zlib.crc32(value) == crc:
                    found[key] = json.loads(value)
                else:
                    damaged.append(key)
        if damaged:
            with self._explained(), self._db:
                self._db.executemany("DELETE FROM units WHERE key = ?", [(k,) for k in damaged])
        return found

    def put(self, units: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> None:
        """Stores JSON-able values, all or none of them."""
        pairs = units.items() if isinstance(units, Mapping) else units
        rows = []
        for key, value in pairs:
            blob = json.dumps(value, ensure_ascii=False).encode()
            rows.append((key, blob, zlib.crc32(blob)))
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
            label: shown with the progress.
            batches: the plan; a batch is done whole and stored whole.
            key: hash of everything that determines an item's value.
            work: values of a batch's items, in order.
            spread: does batches elsewhere and yields (index, values) in any order; None = here.
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
                i = missing[place]
                redone = zip(keys[i], made, strict=True)
                fresh = {k: value for k, value in redone if k not in values}
                self.put(fresh)
                values.update(fresh)
                progress.advance(len(keys[i]))
                about = {"label": label, "total": total, "first": first, "done": progress.done}
                about |= {"seconds": time.monotonic() - start}
                self._tell(about)
        return values

    def _tell(self, about: Mapping[str, Any]) -> None:
        """How far the work is, for `make status`; on a full disk the next `put` says so."""
        told, new = (self.path.with_suffix(f".progress.{end}") for end in ("json", "new"))
        with suppress(OSError):
            new.write_text(json.dumps(about))
            new.replace(told)
