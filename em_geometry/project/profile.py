"""Switching profiles: `make profile P=llama31_8b` copies profiles/<P>.yaml over params.yaml."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from em_geometry.errors import UserError
from em_geometry.io.files import write_text
from em_geometry.models.checkpoint import to_fetch
from em_geometry.project.paths import LINKED, PARAMS, PROFILES
from em_geometry.settings import load_params


def switch(
    name: Annotated[str | None, typer.Argument(help="A file of profiles/, without .yaml.")] = None,
) -> None:
    """Make a profile the active one, unless edits would be lost; without a name, check it."""
    if name is None:
        print(f"{PARAMS}: profile {load_params(PARAMS).profile}")
        drop_dead_links(LINKED)
        return
    profiles = {p.stem: p for p in sorted(PROFILES.glob("*.yaml"))}
    if name not in profiles:
        known = ", ".join(profiles)
        raise UserError("no such profile", where=str(PROFILES), found=name, expected=known)
    params = load_params(profiles[name])
    if PARAMS.is_file() and PARAMS.read_bytes() not in [p.read_bytes() for p in profiles.values()]:
        raise UserError(
            "the active params hold edits that are in no profile",
            where=str(PARAMS),
            hint=f"save them (cp {PARAMS} {PROFILES}/mine.yaml), then switch",
            found=f"other text than that of any file of {PROFILES}",
        )
    write_text(PARAMS, profiles[name].read_text(encoding="utf-8"))
    print(f"{PARAMS} is now {profiles[name]}")
    if fetched := to_fetch(params.base):
        print(f"the next `dvc repro` fetches its base model: {fetched}")


def drop_dead_links(linked: Path) -> None:
    """Drops the links to a model of which a file is gone, at which DVC would stop.

    The stage `given_models` then runs, and links the new files or says what is not there.
    """
    for folder in {link.parent for link in linked.glob("*/*") if not link.exists()}:
        shutil.rmtree(folder)
