"""Switching profiles: `make profile P=llama31_8b` copies profiles/<P>.yaml over params.yaml."""

import difflib
from typing import Annotated, Any

import typer

from em_geometry.errors import UserError
from em_geometry.io.files import read_yaml, write_text
from em_geometry.models.checkpoint import to_fetch
from em_geometry.project.paths import LOCK, PARAMS, PROFILES, TABLES
from em_geometry.settings import load_params


def switch(
    name: Annotated[str, typer.Argument(help="A file of profiles/, without .yaml.")],
) -> None:
    """Make a profile the active one, unless edits would be lost."""
    profiles = {p.stem: p for p in sorted(PROFILES.glob("*.yaml"))}
    if name not in profiles:
        near = difflib.get_close_matches(name, profiles, n=1)
        hint = f"did you mean {near[0]!r}?" if near else None
        what, known = "no such profile", ", ".join(profiles)
        raise UserError(what, where=str(PROFILES), found=name, expected=known, hint=hint)
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


def check_ran(profile: str) -> None:
    """Raises UserError where the results that lie here are those of another profile's run."""
    lock = read_yaml(LOCK, dict[str, Any]) if LOCK.is_file() else {}
    report = lock.get("stages", {}).get("report", {})
    ran = report.get("params", {}).get(str(PARAMS), {}).get("profile", profile)
    if ran != profile:
        raise UserError(
            "the results here are of another profile's run", where=TABLES, found=ran,
            expected=profile, hint=f"make repro, or make profile P={ran}",
        )  # fmt: skip
