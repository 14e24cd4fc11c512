"""Reading and writing artifacts: every write is atomic, every read is checked.

Data go to a folder beside the old file, are flushed to disk, and are renamed. A killed process can
leave such a folder; `.dvcignore` keeps it out of every artifact, and the next write of the same
path removes it.
"""

from __future__ import annotations

import contextlib
import difflib
import glob
import importlib.metadata
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from safetensors import SafetensorError, safe_open

from em_geometry.errors import KeyFault, KeyFaults, UserError, explained, together

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

T = TypeVar("T")
ANYTHING = cast("Any", Any)  # plain data as they are
PARTIAL = ".partial"  # marks what is being written, for .dvcignore and .gitignore
LISTED = 5  # rows of a file at fault that are told one by one
REMAKE = "if a stage writes this file, remove it and run that stage again"
LFS = b"version https://git-lfs"  # how a file begins that Git LFS has not fetched
FREE = "free disk space, or make the folder writable; the earlier file is as it was"
VERSION = "0.1.0"  # of this project; a test compares it with pyproject.toml


def versions() -> str:
    """What made an artifact: this project, torch and transformers, as one line."""
    packages = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers")]
    return ", ".join([f"em-geometry {VERSION}", *packages])


# -- writing


@contextlib.contextmanager
def atomic_path(path: Path, folder: bool = False) -> Iterator[Path]:
    """Yields a path to write to, or an empty folder; on success it replaces `path`.

    Where a folder is replaced there is none of that name between two renames, never a half-written
    one. What an earlier process left when it was killed while it wrote `path` is removed.

    Raises:
        UserError: the disk is full, or the place cannot be written to; `path` is as it was.
    """
    refused = (OSError, SafetensorError)  # safetensors has an error of its own for what a disk says
    with explained("cannot write", path, "space, and a writable folder", FREE, refused):
        for left in path.parent.glob(f".{glob.escape(path.name)}.*{PARTIAL}"):
            shutil.rmtree(left, ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(PARTIAL, f".{path.name}.", path.parent))
        try:
            new = place / path.name
            if folder:
                new.mkdir()
            yield new
            for file in new.rglob("*") if folder else [new]:
                if file.is_file():
                    with file.open("rb") as handle:
                        os.fsync(handle.fileno())
            if folder and path.exists():
                path.replace(place / "old")
            new.replace(path)
        finally:
            shutil.rmtree(place, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_parquet(path: Path, frame: pl.DataFrame, metadata: Mapping[str, str]) -> None:
    """Writes a Parquet file with string metadata, and `versions`, in its footer."""
    import pyarrow.parquet as pq

    table = frame.to_arrow().replace_schema_metadata({**metadata, "versions": versions()})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def write_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes float arrays as safetensors, with `versions`; refuses anything not finite."""
    with tensor_file(path, {k: (v.dtype, v.shape) for k, v in tensors.items()}, metadata) as put:
        for name, array in tensors.items():
            put(name, range(1), array[None])


@contextlib.contextmanager
def tensor_file(
    path: Path,
    kinds: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]],
    metadata: Mapping[str, str],
) -> Iterator[Callable[[str, Sequence[int], np.ndarray], None]]:
    """A safetensors file that is filled row by row, so that no whole tensor is in memory.

    Yields `put(name, rows, values)`: values [len(rows), ...] go to those rows of a tensor, in any
    order; every row must come. The library's layout, with `versions` and a sorted header: the same
    arrays and metadata give the same bytes.

    Args:
        kinds: dtype and shape of each tensor.
    Raises:
        UserError: a value that is not finite.
    """
    import numpy as np

    header: dict[str, Any] = {"__metadata__": {**metadata, "versions": versions()}}
    starts, end = {}, 0
    for name in sorted(kinds, key=lambda name: (-kinds[name][0].itemsize, name)):
        dtype, shape = kinds[name]
        assert dtype.kind == "f", f"{name} is {dtype}"
        starts[name], end = end, end + dtype.itemsize * math.prod(shape)
        about = {"dtype": f"F{8 * dtype.itemsize}", "data_offsets": [starts[name], end]}
        header[name] = about | {"shape": list(shape)}
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    written = 0
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        handle.write(len(text).to_bytes(8, "little") + text)
        first = handle.tell()

        def put(name: str, rows: Sequence[int], values: np.ndarray) -> None:
            nonlocal written
            if not np.isfinite(values).all():
                raise UserError(
                    "a tensor has NaN or infinite values",
                    where=f"{path}: {name}",
                    found=f"{int((~np.isfinite(values)).sum())} of {values.size} values",
                    expected="finite numbers",
                )
            for row, value in zip(rows, values.astype(kinds[name][0], "C"), strict=True):
                handle.seek(first + starts[name] + row * value.nbytes)
                written += handle.write(value.tobytes())

        yield put
        assert written == end, f"{end - written} bytes of {path} were not written"


# -- reading


def fresh(path: Path) -> Path:
    """`path`; UserError when something is there, which a command must not overwrite."""
    if path.exists():
        what, hint = "the file exists", "name another file, or remove it"
        raise UserError(what, where=path, found="a file", expected="a new name", hint=hint)
    return path


def there(path: Path) -> Path:
    """`path`; UserError when no file is there that can be read, or only Git LFS's note of it."""
    if not path.is_file():
        raise UserError(
            "file not found", where=path, found="nothing there", expected="a file",
            hint="correct the name; if a stage writes it, `make repro` or `dvc repro <stage>`",
        )  # fmt: skip
    readable = "a file that you may read"
    with explained("cannot read", path, readable, kinds=(OSError,)), path.open("rb") as handle:
        begins = handle.read(len(LFS))
    if begins == LFS:
        what, found = "Git LFS has not fetched this file", "a note of what it should be"
        raise UserError(what, where=path, found=found, expected="content", hint="git lfs pull")
    return path


def read_text(path: Path) -> str:
    """A text in UTF-8, or in UTF-16 or UTF-32 as programs on Windows write it; no byte order mark.

    Raises:
        UserError: the line that is no such text.
    """
    raw = there(path).read_bytes()
    try:
        return raw.decode(json.detect_encoding(raw))
    except UnicodeDecodeError as error:
        line, expected = raw.count(b"\n", 0, error.start) + 1, "text in UTF-8"
        where = f"{path}, line {line}"
        raise UserError("not UTF-8 text", where=where, found=error, expected=expected) from None


def read_json(path: Path, kind: type[T] = ANYTHING, hint: str | None = None) -> T:
    """Reads a JSON file as a `kind` (see `checked`); UserError when it is missing or malformed."""
    return checked(kind, _json(read_text(path), path, "JSON in UTF-8"), str(path), hint)


def read_yaml(path: Path, kind: type[T] = ANYTHING, hint: str | None = None) -> T:
    """Reads a YAML file of plain data as a `kind`; UserError when it is missing or malformed.

    The parser is DVC's, so that stages and DVC agree: YAML 1.2, in which `1e-5` is a number, `012`
    is twelve, `on`, `off`, `yes` and `no` are words, and a key that occurs twice is an error.
    """
    raw, where = there(path).read_bytes(), str(path)
    try:
        data = YAML(typ="safe").load(raw.decode("utf-8"))
    # constructors fail in their own ways: 2026-13-45, !!timestamp x
    except (YAMLError, ValueError, RecursionError, AttributeError, TypeError) as error:
        mark, found = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where += f", line {mark.line + 1}" if mark else ""
        raise UserError(
            "not a YAML file", where=where, found=found or error, expected="YAML 1.2 in UTF-8"
        ) from None
    return checked(kind, data, str(path), hint)


def read_jsonl(path: Path, kind: type[T] = ANYTHING, hint: str | None = None) -> list[T]:
    """Reads JSON lines, each object as a `kind`; UserError with file and line of what is wrong.

    Blank lines are skipped. One JSON array of the objects is read in place of lines.
    """
    text, expected = read_text(path), "one JSON object a line, in UTF-8"
    if text.lstrip().startswith("["):
        elements = enumerate(_json(text, path, expected), start=1)
        found = [(f"{path}, element {number}", element) for number, element in elements]
    else:  # a byte order mark may stand where files were joined
        lines = ((n, line.strip("\ufeff \t\r")) for n, line in enumerate(text.split("\n"), start=1))
        places = ((f"{path}, line {number}", line) for number, line in lines if line)
        found = [(where, _json(line, where, expected)) for where, line in places]
    if not found:
        raise UserError("the file holds no rows", where=path, found="0 rows", expected=expected)
    for where, row in found:
        if not isinstance(row, dict):
            kind_found = type(row).__name__
            raise UserError("not a JSON object", where=where, found=kind_found, expected=expected)
    rows, wrong = list[T](), list[UserError]()
    for where, row in found:
        try:
            rows.append(checked(kind, row, where, hint))
        except UserError as error:
            wrong.append(error)
    if wrong:
        more = f" (and in {len(wrong) - LISTED} more rows)" if len(wrong) > LISTED else ""
        wrong[:LISTED][-1].what += more
        raise together(wrong[:LISTED])
    return rows


def _json(text: str, where: object, expected: str) -> Any:
    try:
        return from_json(text)
    except ValueError as error:  # syntax, half a surrogate pair, or a number or nesting too long
        what = "not a JSON file" if isinstance(where, Path) else "not a JSON object"
        expected = f"{expected} ({error})"
        raise UserError(what, where=where, found=text[:80].strip(), expected=expected) from None


def checked(kind: type[T], data: Any, where: str, hint: str | None = None) -> T:
    """Plain data as a `kind`, which is anything that pydantic knows: `Model`, `list[Model]`.

    Args:
        where: file and line, or whatever the data came from.
        hint: what to do about data that are refused.
    Raises:
        UserError: the first key at fault with what stands there and what was expected; for an
            unknown key, the nearest known one.
    """
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        first, *others = refusals(error, kind, data, where, hint)
        first.what += f" (and {len(others)} more)" if others else ""
        raise first from None


def refusals(
    error: ValidationError, kind: Any, data: Any, where: str, hint: str | None = None
) -> list[UserError]:
    """What pydantic refuses, in our words: an error a key, in the order of the keys."""
    by_key: dict[tuple[str, ...], list[Any]] = {}
    for each in error.errors():
        keys, _ = _place(each["loc"], data)
        missing = [str(each["loc"][-1])] if each["type"] == "missing" else []
        by_key.setdefault((*keys, *missing), []).append(each)
    found = []
    for place, same in by_key.items():
        cause = same[0].get("ctx", {}).get("error")
        faults = cause.faults if isinstance(cause, KeyFaults) else [cause]
        found += [_refusal(same, [*place], fault, kind, data, where, hint) for fault in faults]
    return found


def _refusal(
    same: Sequence[Any], parts: list[str], cause: object, kind: Any, data: Any, where: str,
    hint: str | None,
) -> UserError:  # fmt: skip
    """The errors of pydantic at one key, whose validator raised `cause`."""
    first, (_, name) = same[0], _place(same[0]["loc"], data)
    if isinstance(cause, KeyFault):
        parts = [*parts, *cause.key.split(".")]
    key = ".".join(parts)
    found, expected = _shown(first["input"])[:100], None
    if first["type"] == "extra_forbidden":
        known = _known_keys(kind, first["loc"][:-1])
        near = difflib.get_close_matches(parts[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "remove it"
        what, expected = f"unknown key {key!r}", "one of " + ", ".join(known)
    elif first["type"] == "missing":
        what, found, expected = f"key {key!r} is missing", "no such key", "a value"
    elif isinstance(cause, KeyFault):
        what, found, expected = f"{key}: {cause.what}", _shown(cause.found), str(cause.expected)
    elif first["type"] == "value_error":
        what = f"{key}: {cause}"
    else:
        messages = dict.fromkeys(e["msg"].removeprefix("Input should be ") for e in same)
        what, expected = f"key {key!r} has a wrong value", " or ".join(messages)
        expected = expected.replace("a valid boolean", "true or false")  # yes and on are words
        if near := difflib.get_close_matches(
            str(first["input"]), re.findall("'(.+?)'", expected), 1
        ):
            hint = f"did you mean {near[0]!r}?"
        if not key:
            found = "nothing" if data is None else type(data).__name__
            what = f"not a {'list' if get_origin(kind) is list else 'mapping of keys'}"
    place = (f"{where}: {key}" if key else where) + (f" ({name})" if name else "")
    return UserError(what, where=place, found=found, expected=expected, hint=hint)


def _shown(value: object) -> str:
    """As it stands in a file, so that text and number differ."""
    return "null" if value is None else repr(value)


def _place(location: Sequence[int | str], data: Any) -> tuple[list[str], str | None]:
    """The keys of a location that the data have, and the last `id` on the way.

    Pydantic's locations go on with the members of unions and the like.
    """
    keys, name = [], None
    for part in location:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            break
        keys.append(str(part))
        if isinstance(data, dict) and isinstance(data.get("id"), str):
            name = data["id"]
    return keys, name


def _known_keys(kind: Any, location: Sequence[int | str]) -> list[str]:
    """Keys of the model at `location`, through lists and dictionaries of models."""
    model: type[BaseModel] | None = None
    annotation = kind
    for part in (None, *location):
        if model is not None:
            field = model.model_fields.get(str(part))
            if field is None:  # a position in a list, or a name in a dictionary
                continue
            annotation = field.annotation
        for inner in (annotation, *get_args(annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                model = inner
    return list(model.model_fields) if model else []


def read_parquet(path: Path, hint: str = REMAKE) -> pl.DataFrame:
    """Reads a Parquet file; UserError when it is missing or damaged."""
    import polars as pl

    with explained("not a readable Parquet file", path, "a Parquet file", hint):
        return pl.read_parquet(there(path))


def read_tensors(path: Path, hint: str = REMAKE) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads a safetensors file: (arrays by name, metadata); what numpy lacks becomes float32."""
    with explained("not a readable safetensors file", path, "float tensors", hint):
        with safe_open(str(there(path)), framework="numpy") as handle:
            about = dict(handle.metadata() or {})
            kinds = {name: handle.get_slice(name).get_dtype() for name in handle.keys()}  # noqa: SIM118
            if not any(kind.startswith(("BF", "F8")) for kind in kinds.values()):
                return {name: handle.get_tensor(name) for name in kinds}, about
        with safe_open(str(path), framework="pt") as handle:
            return {name: handle.get_tensor(name).float().numpy() for name in kinds}, about


def check_vector(vector: np.ndarray, width: int, name: str) -> None:
    """Raises UserError unless `vector` is finite, not zero and of this width."""
    import numpy as np

    bad = int((~np.isfinite(vector)).sum())
    if vector.shape != (width,):
        what, found = "the vector does not fit", f"shape {vector.shape}"
    elif bad:
        what, found = "the vector has NaN or infinite entries", f"{bad} of {vector.size} entries"
    elif not vector.any():
        what, found = "the vector is zero", "length 0"
    else:
        return
    raise UserError(what, where=name, found=found, expected=f"{width} numbers, not all of them 0")
