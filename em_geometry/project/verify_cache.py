"""`make verify-cache`: every object of the DVC cache and remote against its name.

    em-geometry verify-cache --repair

An object's name is the MD5 of its bytes, but DVC checks it only on a `verify` remote's way in, and
holds a pushed folder to be whole when its list is there. Prints what is damaged and exits with 1;
`--repair` takes a sound copy from another store, or drops the object so that DVC misses it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import typer

from em_geometry.errors import UserError
from em_geometry.progress import Progress

NAME = re.compile(r"([0-9a-f]{2})/([0-9a-f]{30}(?:\.dir)?)$")
DIR = ".dir"
Kind = Literal["damaged", "missing", "leftover"]
MEANING: Mapping[Kind, str] = {
    "damaged": "its bytes do not have its name",
    "missing": "a folder lists it and it is not there",
    "leftover": "no object's name, as an interrupted transfer leaves",
}


@dataclass(frozen=True)
class Fault:
    """Something wrong in one store; `name` is an object, or a path for a leftover."""

    store: Store
    kind: Kind
    name: str


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

    def check(self) -> list[Fault]:
        """Reads every object; what is wrong, in order of names."""
        try:
            paths = sorted(self.odb.fs.find(self.odb.path))
        except FileNotFoundError:
            paths = []
        faults: list[Fault] = []
        with Progress(f"checking {self.label}", len(paths), unit="objects") as progress:
            for path in paths:
                found = NAME.search(path.replace("\\", "/"))
                name = "".join(found.groups()) if found else path
                if not found:
                    faults.append(Fault(self, "leftover", path))
                elif self._is_sound(path, name):
                    self.sound.add(name)
                else:
                    faults.append(Fault(self, "damaged", name))
                progress.advance()
        listed = {m for members in self.members.values() for m in members}
        absent = listed - self.sound - {fault.name for fault in faults}
        return faults + [Fault(self, "missing", name) for name in sorted(absent)]

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

    def drop(self, name: str) -> None:
        """Removes an object if it is there, and the folders that list it."""
        self.sound.discard(name)
        if self.odb.exists(name):
            self.odb.delete(name)
        for folder in [f for f, members in self.members.items() if name in members]:
            del self.members[folder]
            self.drop(folder)

    def take(self, name: str, other: Store) -> None:
        """Copies a sound object from another store, in place of what is here."""
        if self.odb.exists(name):
            self.odb.delete(name)
        self.odb.add(other.odb.oid_to_path(name), other.odb.fs, name, check_exists=False)
        self.sound.add(name)


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


def repair(found: Sequence[Store], faults: Sequence[Fault]) -> bool:
    """Mends each fault from another store, or drops it; whether nothing had to be dropped."""
    from dvc_data.hashfile.db import get_index

    whole = True
    for fault in faults:
        store, name = fault.store, fault.name
        source = next((s for s in found if s is not store and name in s.sound), None)
        if fault.kind == "leftover":
            store.odb.fs.remove(name)
            done = "removed"
        elif source is not None:
            store.take(name, source)
            done = f"copied from {source.label}"
        else:
            store.drop(name)
            whole = False
            done = "no sound copy: dropped, with folders that list it"
        print(f"{store.label}: {name}: {done}")
    for store in {fault.store for fault in faults}:
        get_index(store.odb).clear()  # else DVC goes on believing what it remembers
    return whole


def cli(
    mend: Annotated[bool, typer.Option("--repair", help="Take sound copies, else drop.")] = False,
    remote: Annotated[list[str] | None, typer.Option(help="Remotes, else the default.")] = None,
) -> None:
    """Check every object of the DVC cache and remote against its name."""
    found = stores(remote or [])
    faults: list[Fault] = []
    for store in found:
        try:
            faults += store.check()
        except OSError as error:
            raise UserError("a store cannot be read", where=store.label, found=error) from None
        print(f"{store.label}: {len(store.sound)} sound objects in {store.odb.path}")
    for fault in faults:
        print(f"{fault.store.label}: {fault.kind} {fault.name}: {MEANING[fault.kind]}")
    sound = repair(found, faults) if mend else not faults
    if mend and not sound:
        print("run `dvc repro` to make again what was dropped, then `dvc push`")
    if not sound:
        raise typer.Exit(1)
