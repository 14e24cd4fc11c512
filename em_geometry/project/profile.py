"""Switching profiles: `make profile P=llama31_8b` copies profiles/<P>.yaml over params.yaml."""

from pathlib import Path
from typing import Annotated

import typer

from em_geometry.errors import UserError
from em_geometry.io.files import write_text
from em_geometry.project.paths import PARAMS, PROFILES
from em_geometry.settings import load_params


def switch(name: str, params: Path = PARAMS, folder: Path = PROFILES) -> None:
    """Makes a profile the active one.

    Raises:
        UserError: no such profile; a profile that does not load; edits in `params` that are in
            no profile and would be lost.
    """
    profiles = {p.stem: p for p in sorted(folder.glob("*.yaml"))}
    if name not in profiles:
        raise UserError(
            "no such profile", where=str(folder), found=name, expected=", ".join(profiles)
        )
    load_params(profiles[name])
    known = [p.read_bytes() for p in profiles.values()]
    if params.is_file() and params.read_bytes() not in known:
        raise UserError(
            "the active params hold edits that are in no profile",
            where=str(params),
            hint=f"save them (cp {params} {folder}/mine.yaml), then switch",
            found="other text than that of any file of " + str(folder),
        )
    write_text(params, profiles[name].read_text(encoding="utf-8"))
    print(f"{params} is now {profiles[name]}")


def cli(name: Annotated[str, typer.Argument(help="A file of profiles/, without .yaml.")]) -> None:
    """Make a profile the active one; refuses to overwrite unsaved edits."""
    switch(name)
