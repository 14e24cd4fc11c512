"""`em-geometry new FOLDER --from adapters`: a study of one's own, in a repository of its own.

The folder gets a small `params.yaml`, a `dvc.yaml` that runs the stages of this package, places for
the data, and a README. What is given says where it begins: `vectors`, LoRA `adapters` (or full
checkpoints), or `chats` to train on.
"""

import re
import shutil
from enum import StrEnum
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from em_geometry.errors import UserError
from em_geometry.io.files import read_text, write_text

NAME = "<name>"  # in the templates: the study's, which is its folder's
QUOTED = re.compile(r'[^"\\\x00-\x1f\x7f]+')  # what can stand in quotes in YAML as it is


class Given(StrEnum):
    """What a study begins with."""

    adapters = "adapters"
    vectors = "vectors"
    chats = "chats"


def new(
    folder: Annotated[Path, typer.Argument(help="Of the study; it is made.")],
    given: Annotated[Given, typer.Option("--from", help="What you have.")],
) -> None:
    """Begin a study of your own vectors, adapters or chats, in a folder of its own."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        found, expected = "files" if folder.is_dir() else "a file", "a new folder, or an empty one"
        raise UserError("the folder is not empty", where=folder, found=found, expected=expected)
    name = folder.resolve().name
    if not QUOTED.fullmatch(name):
        expected = "no quotation mark, backslash or control character"
        raise UserError(
            "a study has its folder's name", where=folder, found=name, expected=expected
        )
    with as_file(files("em_geometry.project") / "studies") as studies:
        parts = [given] if given is Given.vectors else ["models", given]
        for part in parts:
            shutil.copytree(studies / part, folder, dirs_exist_ok=True)
    for path in (folder / "params.yaml", folder / "README.md"):
        write_text(path, read_text(path).replace(NAME, name))
    print(f"{folder}/README.md says what to put where; then, in {folder}:")
    print("git init && dvc init && dvc repro")
