"""Reading and writing artifacts: every write is atomic (atomic.py), every read is checked."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em_geometry.errors import UserError, first_line
from em_geometry.io.atomic import atomic_path

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

Put = Callable[[str, Sequence[int], Any], None]
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
    plain = json.loads(json.dumps(metrics, default=_to_python))
    check_metrics(plain)
    write_text(path, json.dumps(plain, indent=1, ensure_ascii=False) + "\n")


def _to_python(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def read_json(path: Path) -> Any:
    """Reads a JSON file; UserError when it is missing or malformed."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise missing(path) from None
    except (ValueError, RecursionError) as error:  # bytes, syntax, or a number or nesting too long
        raise UserError(
            "not a JSON file",
            where=str(path),
            found=str(error),
            hint="remove the file and run what writes it again, or correct it",
        ) from None


def read_yaml(path: Path) -> Any:
    """Reads a YAML file (plain data only); UserError when it is missing or malformed."""
    import yaml

    if not path.is_file():
        raise missing(path)
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2026-13-45, bytes
        raise UserError(
            "not a YAML file", where=str(path), found=str(error), expected="YAML 1.1, UTF-8"
        ) from None


def missing(path: Path) -> UserError:
    return UserError(
        "file not found",
        where=str(path),
        found="nothing there",
        expected="an input of this stage",
        hint="run `make repro`, or `dvc repro <stage>` for the stage that writes it",
    )


def read_jsonl(path: Path, keys: Mapping[str, type] | None = None) -> list[dict[str, Any]]:
    """Reads JSON lines; UserError with file and line for anything malformed.

    Args:
        path: file of one JSON object a line; blank lines are skipped.
        keys: required keys and their types.
    """
    if not path.is_file():
        raise missing(path)
    rows: list[dict[str, Any]] = []
    with path.open("rb") as handle:
        for number, raw in enumerate(handle, start=1):
            if not raw.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row = json.loads(raw.decode("utf-8"))
                if b"\\u" in raw:  # half of a surrogate pair is JSON, but no text
                    json.dumps(row, ensure_ascii=False).encode("utf-8")
            except UnicodeError as error:
                raise UserError(
                    "not UTF-8 text",
                    where=where,
                    found=str(error),
                    expected="one JSON object a line, in UTF-8",
                ) from None
            except (ValueError, RecursionError) as error:
                raise UserError(
                    "not a JSON object",
                    where=where,
                    found=raw[:80].decode("utf-8", "replace").strip(),
                    expected=f"one JSON object a line ({error})",
                ) from None
            if not isinstance(row, dict):
                raise UserError(
                    "not a JSON object",
                    where=where,
                    found=type(row).__name__,
                    expected="one JSON object a line, in UTF-8",
                )
            for name, kind in (keys or {}).items():
                if not isinstance(row.get(name), kind):
                    raise UserError(
                        f"key {name!r} is missing or of the wrong type",
                        where=where,
                        found=repr(row.get(name)),
                        expected=kind.__name__,
                    )
            rows.append(row)
    if not rows:
        raise UserError(
            "the file holds no rows",
            where=str(path),
            found="0 rows",
            expected="one JSON object a line, in UTF-8",
        )
    return rows


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
    try:
        frame = pl.read_parquet(path)
    except Exception as error:  # polars raises its own family; any of it means a bad file
        raise UserError(
            "not a readable Parquet file",
            where=str(path),
            found=first_line(error),
            hint="remove the file and run the stage that writes it again",
        ) from None
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
    """Reads a safetensors file: (arrays by name, metadata)."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise missing(path)
    try:
        with safe_open(str(path), framework="numpy") as handle:
            names = list(handle.keys())
            return {k: handle.get_tensor(k) for k in names}, dict(handle.metadata() or {})
    except (SafetensorError, OSError, ValueError, TypeError) as error:  # TypeError: bfloat16
        raise UserError(
            "not a readable safetensors file",
            where=str(path),
            found=str(error),
            hint="remove the file and run the stage that writes it again",
        ) from None
