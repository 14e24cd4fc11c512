"""Reading and writing artifacts: every write is atomic (atomic.py), every read is checked."""

from __future__ import annotations

import codecs
import contextlib
import difflib
import importlib.metadata
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, overload

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json

from em_geometry.errors import KeyFault, UserError, explained
from em_geometry.io.atomic import atomic_path

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

T = TypeVar("T")
Put = Callable[[str, Sequence[int], Any], None]
REMAKE = "if a stage writes this file, remove it and run that stage again"
VERSION = "0.1.0"  # of this project; a test compares it with pyproject.toml


def versions() -> str:
    """What made an artifact: this project, torch and transformers, as one line."""
    packages = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers")]
    return ", ".join([f"em-geometry {VERSION}", *packages])


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def nest(flat: Mapping[str, object]) -> dict[str, object]:
    """Nested dictionaries from dotted keys."""
    nested: dict[str, object] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        inner = nested
        for part in path:
            found = inner.setdefault(part, {})
            if not isinstance(found, dict):
                raise ValueError(f"{key}: {part} is a value and a group")
            inner = found
        inner[last] = value
    return nested


def check_metrics(value: Any, key: str = "") -> None:
    """Raises ValueError unless `value` is nested dicts of finite scalars and strings.

    DVC drops lists and nulls from metrics without a word and writes NaN into JSON, so a metric
    that cannot be a number is a string that says why.
    """
    if isinstance(value, Mapping):
        for name, inner in value.items():
            check_metrics(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"metric {key} is {value}; write a status string instead")
    elif not isinstance(value, str | int | float | bool):
        raise ValueError(f"metric {key} is a {type(value).__name__}; only scalars and strings")


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Writes a metrics JSON that `dvc metrics` shows whole (see `check_metrics`)."""
    plain = json.loads(json.dumps(metrics, default=methodcaller("item")))  # numpy's scalars
    check_metrics(plain)
    write_text(path, json.dumps(plain, indent=1, ensure_ascii=False) + "\n")


@overload
def read_json(path: Path) -> Any: ...
@overload
def read_json(path: Path, kind: type[T], hint: str | None = None) -> T: ...
def read_json(path: Path, kind: Any = Any, hint: str | None = None) -> Any:
    """Reads a JSON file as a `kind` (see `checked`); UserError when it is missing or malformed."""
    return checked(kind, _json(_bytes(path), str(path), "file"), str(path), hint)


@overload
def read_yaml(path: Path) -> Any: ...
@overload
def read_yaml(path: Path, kind: type[T], hint: str | None = None) -> T: ...
def read_yaml(path: Path, kind: Any = Any, hint: str | None = None) -> Any:
    """Reads a YAML file of plain data as a `kind`; UserError when it is missing or malformed."""
    raw = _bytes(path)
    try:
        loader = _Yaml(raw.decode("utf-8-sig"))
        try:
            data = loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2026-13-45, bytes
        raise UserError(
            "not a YAML file", where=str(path), found=str(error), expected="YAML in UTF-8"
        ) from None
    return checked(kind, data, str(path), hint)


class _Yaml(yaml.SafeLoader):
    """YAML 1.1 with the numbers of 1.2, so that `1e-5` is one, as DVC reads it."""


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


@overload
def read_jsonl(path: Path) -> list[dict[str, Any]]: ...
@overload
def read_jsonl(path: Path, kind: type[T], hint: str | None = None) -> list[T]: ...
def read_jsonl(path: Path, kind: Any = dict[str, Any], hint: str | None = None) -> list[Any]:
    """Reads JSON lines, each object as a `kind`; UserError with file and line of what is wrong.

    Blank lines are skipped, and so is a byte order mark.
    """
    lines = _bytes(path).removeprefix(codecs.BOM_UTF8).split(b"\n")
    rows = [
        checked(kind, _json(raw, where := f"{path}, line {number}", "object"), where, hint)
        for number, raw in enumerate(lines, start=1)
        if raw.strip()
    ]
    if not rows:
        raise UserError(
            "the file holds no rows",
            where=str(path),
            found="0 rows",
            expected="one JSON object a line, in UTF-8",
        )
    return rows


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise missing(path)
    return path.read_bytes()


def _json(raw: bytes, where: str, what: str) -> Any:
    expected = "JSON in UTF-8" if what == "file" else "one JSON object a line, in UTF-8"
    try:
        found = from_json(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError("not UTF-8 text", where=where, found=error, expected=expected) from None
    except ValueError as error:  # syntax, half a surrogate pair, or a number or nesting too long
        raise UserError(
            f"not a JSON {what}",
            where=where,
            found=raw[:80].decode("utf-8", "replace").strip(),
            expected=f"{expected} ({error})",
        ) from None
    if what == "object" and not isinstance(found, dict):
        raise UserError(
            "not a JSON object", where=where, found=type(found).__name__, expected=expected
        )
    return found


def missing(path: Path) -> UserError:
    """What is raised for a file that is not there."""
    return UserError(
        "file not found",
        where=str(path),
        found="nothing there",
        expected="an input of this stage",
        hint="run `make repro`, or `dvc repro <stage>` for the stage that writes it",
    )


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
        raise _refusal(error, kind, data, where, hint) from None


def _refusal(
    error: ValidationError, kind: Any, data: Any, where: str, hint: str | None
) -> UserError:
    """The first error of pydantic, and those at the same key, in our words."""
    first, *others = error.errors()
    parts, name = _place(first["loc"], data)
    same = [first, *(e for e in others if _place(e["loc"], data)[0] == parts)]
    more = f" (and {len(others) + 1 - len(same)} more)" if len(same) <= len(others) else ""
    known: list[str] = []
    cause = first.get("ctx", {}).get("error")
    if first["type"] == "missing":
        parts.append(str(first["loc"][-1]))
    if isinstance(cause, KeyFault):
        parts += cause.key.split(".")
    key = ".".join(parts)
    found: object = _shown(first["input"])[:100]
    expected: object = None
    if first["type"] == "extra_forbidden":
        known = _known_keys(kind, first["loc"][:-1])
        near = difflib.get_close_matches(parts[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "remove it"
        what, expected = f"unknown key {key!r}", "one of " + ", ".join(known)
    elif first["type"] == "missing":
        what, found, expected = f"key {key!r} is missing", "no such key", "a value"
    elif isinstance(cause, KeyFault):
        what, found, expected = f"{key}: {cause.what}", _shown(cause.found), cause.expected
    elif first["type"] == "value_error":
        what = f"{key}: {cause}"
    else:
        messages = dict.fromkeys(e["msg"].removeprefix("Input should be ") for e in same)
        what, expected = f"key {key!r} has a wrong value", " or ".join(messages)
        if not key:
            found = "nothing" if data is None else type(data).__name__
            what = f"not a {'list' if get_origin(kind) is list else 'mapping of keys'}"
    place = f"{where}: {key}" if key else where
    return UserError(
        what + more,
        where=f"{place} ({name})" if name else place,
        found=found,
        expected=expected,
        hint=hint,
    )


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


def write_parquet(path: Path, frame: pl.DataFrame, metadata: Mapping[str, str]) -> None:
    """Writes a Parquet file with string metadata, and `versions`, in its footer."""
    import pyarrow.parquet as pq

    table = frame.to_arrow().replace_schema_metadata({**metadata, "versions": versions()})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_parquet(path: Path, columns: Mapping[str, Any] | None = None) -> pl.DataFrame:
    """Reads a Parquet file; `columns` are the names and polars types it must have."""
    import polars as pl

    if not path.is_file():
        raise missing(path)
    with explained("not a readable Parquet file", str(path), "a Parquet file", REMAKE):
        frame = pl.read_parquet(path)
    for name, kind in (columns or {}).items():
        if frame.schema.get(name) != kind:
            raise UserError(
                f"column {name!r} is missing or of the wrong type",
                where=str(path),
                found=str(frame.schema.get(name)),
                expected=str(kind),
            )
    return frame


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
) -> Iterator[Put]:
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
        header[name] = {
            "dtype": f"F{8 * dtype.itemsize}",
            "shape": list(shape),
            "data_offsets": [starts[name], end],
        }
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


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads a safetensors file: (arrays by name, metadata); bfloat16 becomes float32."""
    from safetensors import safe_open

    if not path.is_file():
        raise missing(path)
    with explained("not a readable safetensors file", str(path), "float tensors", REMAKE):
        with safe_open(str(path), framework="numpy") as handle:
            about, kinds = dict(handle.metadata() or {}), {}
            for name in handle.keys():  # noqa: SIM118 - no mapping
                kinds[name] = handle.get_slice(name).get_dtype()
            if "BF16" not in kinds.values():  # which numpy has not
                return {name: handle.get_tensor(name) for name in kinds}, about
        with safe_open(str(path), framework="pt") as handle:
            return {name: handle.get_tensor(name).float().numpy() for name in kinds}, about
