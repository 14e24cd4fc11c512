"""`em-geometry verify-cache`: every object of the DVC cache and remote against its name.

An object's name is the MD5 of its bytes, but DVC checks it only on a `verify` remote's way in, and
holds a pushed folder to be whole when its list is there. Prints what is damaged and exits with 1;
`--repair` takes a sound copy from another store, or drops the object so that DVC misses it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from em_geometry.errors import UserError
from em_geometry.progress import Progress

NAME = re.compile(r"([0-9a-f]{2})/([0-9a-f]{30}(?:\.dir)?)$")
DIR = ".dir"
LEFTOVER = "leftover"
MEANING = {
    "damaged": "its bytes do not have its name",
    "missing": "a folder lists it and it is not there",
    LEFTOVER: "no object's name, as an interrupted transfer leaves",
}


@dataclass(eq=False)
class Store:
    """One place with objects.

    Attributes:
        odb: DVC's object database of it.
        sound: objects whose bytes have their name.
        members: folder object -> the objects that it lists, of sound folders.
    """

    label: str
    odb: Any
    sound: set[str] = field(default_factory=set)
    members: dict[str, list[str]] = field(default_factory=dict)

    def faults(self) -> Iterator[tuple[str, str]]:
        """Reads every object; (kind of fault, object, or path for a leftover), in order."""
        there = self.odb.fs.exists(self.odb.path)
        paths = sorted(self.odb.fs.find(self.odb.path)) if there else []
        damaged = set()
        with Progress(f"checking {self.label}", len(paths), unit="objects") as progress:
            for path in paths:
                found = NAME.search(path.replace("\\", "/"))
                name = "".join(found.groups()) if found else path
                if not found:
                    yield LEFTOVER, path
                elif self._is_sound(path, name):
                    self.sound.add(name)
                else:
                    damaged.add(name)
                    yield "damaged", name
                progress.advance()
        listed = {member for members in self.members.values() for member in members}
        for name in sorted(listed - self.sound - damaged):
            yield "missing", name

    def _is_sound(self, path: str, name: str) -> bool:
        from dvc_data.hashfile.hash import file_md5

        try:
            if file_md5(path, self.odb.fs) != name.removesuffix(DIR):
                return False
            if name.endswith(DIR):
                entries = json.loads(self.odb.fs.cat_file(path))
                self.members[name] = [entry["md5"] for entry in entries]
        except FileNotFoundError:
            return False
        return True

    def mend(self, name: str, others: Sequence[Store]) -> Store | None:
        """Puts in a sound copy from another store, or drops the object and what lists it."""
        source = next((s for s in others if s is not self and name in s.sound), None)
        gone = [name]
        if source is None:
            gone += [folder for folder, members in self.members.items() if name in members]
        for each in filter(self.odb.exists, gone):
            self.odb.delete(each)
        if source is not None:
            path = source.odb.oid_to_path(name)
            self.odb.add(path, source.odb.fs, name, check_exists=False)
        self.sound = (self.sound - {*gone}) | ({name} if source else set())
        return source


def stores(remotes: Sequence[str]) -> list[Store]:
    """The local cache, and the given remotes, else the default one where there is one."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        repo = Repo()
        default = repo.config["core"].get("remote")
        names = list(remotes) or ([default] if default else [])
        found = [Store("cache", repo.cache.local)]
        return found + [Store(f"remote {n}", repo.cloud.get_remote_odb(n)) for n in names]
    except DvcException as error:
        raise UserError(str(error), where=".dvc/config", hint="dvc remote list") from None


def cli(
    repair: Annotated[bool, typer.Option("--repair", help="Take sound copies, else drop.")] = False,
    remote: Annotated[list[str] | None, typer.Option(help="Remotes, else the default.")] = None,
) -> None:
    """Check every object of the DVC cache and remote against its name."""
    from dvc_data.hashfile.db import get_index

    found = stores(remote or [])
    faults: list[tuple[Store, str, str]] = []
    for store in found:
        try:
            faults += [(store, kind, name) for kind, name in store.faults()]
        except OSError as error:
            raise UserError("a store cannot be read", where=store.label, found=error) from None
        print(f"{store.label}: {len(store.sound)} sound objects in {store.odb.path}")
    whole = repair or not faults
    for store, kind, name in faults:
        print(f"{store.label}: {kind} {name}: {MEANING[kind]}")
    for store, kind, name in faults if repair else []:
        done = "removed"
        if kind == LEFTOVER:
            store.odb.fs.remove(name)
        elif source := store.mend(name, found):
            done = f"copied from {source.label}"
        else:
            whole, done = False, "no sound copy: dropped, with folders that list it"
        print(f"{store.label}: {name}: {done}")
        get_index(store.odb).clear()  # else DVC goes on believing what it remembers
    if repair and not whole:
        print("run `dvc repro` to make again what was dropped, then `dvc push`")
    if not whole:
        raise typer.Exit(1)
