"""Atomic writes: a half-written file never takes the place of an earlier good one.

Data go to a temporary file or folder beside the old one, are flushed to disk, and are renamed. A
killed process can leave such a file; `.dvcignore` keeps it out of every artifact, and the next
write of the same path removes it.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from em_geometry.errors import UserError

PARTIAL = ".partial"  # marks what is being written, for .dvcignore and .gitignore


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it replaces `path`, else it is removed.

    What an earlier process left when it was killed while it wrote `path` is removed too.

    Raises:
        UserError: the disk is full, or the folder cannot be written to; `path` is as it was.
    """
    with _explained(path):
        _remove_partial(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = PARTIAL + path.suffix
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=suffix)
        os.close(fd)
        temporary = Path(name)
        try:
            yield temporary
            _flush(temporary)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder beside `folder`, which it replaces on success; else it is removed.

    Between two renames there is no folder of that name, never a half-written one.

    Raises:
        UserError: as `atomic_path`.
    """
    with _explained(folder):
        _remove_partial(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary, old = (
            Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=PARTIAL))
            for _ in range(2)
        )
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _flush(file)
            temporary.chmod(0o777 & ~_umask())
            if folder.exists():
                folder.replace(old)
            temporary.replace(folder)
        finally:
            for left in (temporary, old):
                shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """An operating system's refusal to write as a UserError."""
    try:
        yield
    except Exception as error:  # safetensors has an error of its own for what the system says
        system = type(error).__name__ == "SafetensorError" and "os error" in str(error)
        if not isinstance(error, OSError) and not system:
            raise
        raise UserError(
            "cannot write",
            where=str(path),
            found=getattr(error, "strerror", None) or str(error),
            hint="free disk space, or make the folder writable; the earlier file is as it was",
        ) from None


def _remove_partial(path: Path) -> None:
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{PARTIAL}*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _flush(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
