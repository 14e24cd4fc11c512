"""Reading and checking anybody's vectors, cosines, clusters and norms."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from em_geometry.errors import UserError, explained
from em_geometry.io.files import check_vector, read_json, read_tensors, read_text
from em_geometry.io.records import closed, separator
from em_geometry.stats.estimate import Floats

TOLERANCE = 1e-6  # slack of symmetry, diagonal, range and smallest eigenvalue
Rows = Sequence[Sequence[object]]
OTHER_FORMATS = (".pt", ".pth", ".bin", ".npy", ".npz", ".gguf")  # of vectors
NAME = re.compile(r"(?!.*__)[^\s.\x00-\x1f\x7f]+")  # keys join names by `__`, nest at dots


def vector_rows(vectors: Mapping[str, npt.ArrayLike]) -> Floats:
    """Vectors by name as rows [n, width]; UserError for what is no set of vectors."""
    rows = {name: np.asarray(vector, dtype=np.float64) for name, vector in vectors.items()}
    width = next((row.shape[-1] for row in rows.values() if row.ndim), 0)
    for name, row in rows.items():
        check_vector(row, width, name)
    return np.stack(list(rows.values())) if rows else np.empty((0, 0))


def cluster_indices(
    names: Sequence[str], clusters: Mapping[str, Sequence[str]]
) -> dict[str, list[int]]:
    """Clusters as positions in `names`; UserError for unknown or repeated names."""
    if len(names) < 2:
        what, found = "the battery needs at least two vectors", ", ".join(names) or "none"
        raise UserError(what, where="the vectors", found=found, expected="two names or more")
    position = {name: i for i, name in enumerate(names)}
    taken: dict[str, str] = {}
    for cluster, listed in clusters.items():
        what, fault = "a cluster is empty", "" if listed else "no member"
        for name in listed:
            if name not in position or name in taken:
                what, fault = "a cluster names an unknown vector", name
                if name in taken:
                    what = f"a vector is in two clusters, or twice in one ({taken[name]})"
                break
            taken[name] = cluster
        if fault:
            expected = "each once, of " + ", ".join(names)
            raise UserError(what, where=f"cluster {cluster}", found=fault, expected=expected)
    return {c: sorted(position[name] for name in listed) for c, listed in clusters.items()}


def read_cosines(path: Path) -> tuple[list[str], Floats]:
    """Names and cosines [n, n] from a CSV with a header of names, or JSON {names, matrix}.

    A CSV may repeat the names in its first column. Cells are parted by commas, or by semicolons or
    tabs, and then numbers may have a decimal comma.

    Raises:
        UserError: anything `check_cosines` refuses, or a file that is neither.
    """
    names, rows = _from_json(path) if path.suffix.lower() == ".json" else _from_csv(path)
    for name in names:
        if not NAME.fullmatch(name) or names.count(name) > 1:
            what = "a name is empty, occurs twice, or holds a space, a dot or `__`"
            expected = "names of their own, which the keys of the result are made of"
            raise UserError(what, where=path, found=repr(name), expected=expected)
    if names and not rows:
        what, expected = "the matrix has no rows", f"{len(names)}, as many as names"
        raise UserError(what, where=path, found="names alone", expected=expected)
    for i, row in enumerate(rows):
        if len(row) != len(names) or len(rows) != len(names):
            raise UserError(
                "the matrix is not square",
                where=f"{path}, row {i + 1}",
                found=f"{len(rows)} rows, {len(row)} values in this one",
                expected=f"{len(names)} of each, as many as names",
            )
    matrix = np.array([[number_of(cell) for cell in row] for row in rows])
    matrix = matrix.reshape(len(rows), len(names))
    for i, j in np.argwhere(np.isnan(matrix)):
        where, expected = f"{path}: {names[i]}, {names[j]}", "a number from -1 to 1"
        raise UserError(
            "not a finite number", where=where, found=repr(rows[i][j]), expected=expected
        )
    return names, check_cosines(names, matrix, path)


def number_of(cell: object) -> float:
    """A cell as a number, with a decimal point or comma; NaN for anything else."""
    try:
        return float(str(cell).replace(",", "."))
    except ValueError:
        return float("nan")


def _from_json(path: Path) -> tuple[list[str], Rows]:
    data: Any = read_json(path)
    parts: Any = data if isinstance(data, dict) else {}
    names, rows = parts.get("names"), parts.get("matrix")
    lists = isinstance(names, list) and isinstance(rows, list)
    if not lists or not all(isinstance(row, list) for row in rows):
        what, expected = "not a matrix of cosines", '{"names": [...], "matrix": [[...], ...]}'
        raise UserError(what, where=path, expected=expected, found=type(data).__name__)
    return [str(name) for name in names], rows


def _from_csv(path: Path) -> tuple[list[str], Rows]:
    text = read_text(path)
    cells = csv.reader(text.splitlines(), delimiter=separator(text), strict=True)
    with explained("not a CSV file", path, "a header of names, then rows, cells quoted"):
        lines = [*closed(cells, 0)]
    lines = [[cell.strip() for cell in line] for line in lines if any(map(str.strip, line))]
    if not lines:
        what, expected = "the file is empty", "a header of names"
        raise UserError(what, where=path, found="0 lines", expected=expected)
    header, *rows = lines
    begins = [row[0] for row in rows]
    if not rows or (not np.isnan(number_of(begins[0])) and begins != header[-len(rows) :]):
        return header, rows
    names = header[-len(rows) :] if len(header) == len(rows) + 1 else header
    for row, name in zip(rows, names, strict=False):
        if row[0] != name:
            what = "rows and columns are in different order"
            raise UserError(what, where=path, found=row[0], expected=name)
    return names, [row[1:] for row in rows]


def check_cosines(names: Sequence[str], matrix: Floats, where: object) -> Floats:
    """`matrix`, exactly symmetric; UserError unless it is one of cosines of real vectors."""
    far = np.abs(matrix) > 1.0 + TOLERANCE
    short = np.diag(np.abs(np.diagonal(matrix) - 1.0) > TOLERANCE)
    uneven = np.abs(matrix - matrix.T) > TOLERANCE
    for what, faults, expected in (
        ("a cosine is out of range", far, "a number from -1 to 1"),
        ("the diagonal is not 1", short, "1, the cosine of a vector with itself"),
        ("the matrix is not symmetric", uneven, "{}, as across the diagonal"),
    ):
        for i, j in np.argwhere(faults):
            pair, other = f"{where}: {names[i]}, {names[j]}", expected.format(matrix[j, i])
            raise UserError(what, where=pair, found=matrix[i, j], expected=other)
    symmetric: Floats = np.clip((matrix + matrix.T) / 2, -1.0, 1.0)
    smallest = float(np.linalg.eigvalsh(symmetric)[0])
    if smallest < -TOLERANCE:
        raise UserError(
            "no vectors have these cosines: the matrix is not positive semidefinite",
            where=where,
            found=f"smallest eigenvalue {smallest:.6g}",
            expected="0 or more",
            hint="check for mixed-up entries, or give more digits",
        )
    return symmetric


def parse_clusters(texts: Sequence[str]) -> dict[str, list[str]]:
    """`["a=x,y", ...]` as a dictionary; UserError for anything else."""
    clusters: dict[str, list[str]] = {}
    for text in texts:
        name, _, members = text.partition("=")
        if not all(members.split(",")) or name in clusters or not NAME.fullmatch(name):
            expected = "name=member,member"
            raise UserError("not a cluster", where="--clusters", found=text, expected=expected)
        clusters[name] = members.split(",")
    return clusters


def read_directions(folder: Path, width: int, taken: Sequence[str]) -> dict[str, Floats]:
    """Every tensor of the safetensors files in `folder`: name -> direction [width].

    Args:
        taken: names that a direction must not have, because the organisms have them.
    Raises:
        UserError: no such folder; a file, name or vector that cannot be used.
    """
    if not folder.is_dir():
        where = f"params.yaml: vectors.external: {folder}"
        expected = "a folder of safetensors files, or an empty one"
        raise UserError("no such folder", where=where, found="nothing there", expected=expected)
    found: dict[str, Floats] = {}
    for path in sorted(folder.glob("[!.]*")):  # hidden files are a file manager's
        if path.suffix.lower() in OTHER_FORMATS:
            what, expected = "a direction in a format that is not read here", "safetensors"
            raise UserError(what, where=path, found=path.suffix, expected=expected)
        if path.suffix.lower() != ".safetensors":
            continue
        for name, vector in read_tensors(path)[0].items():
            where = f"{path}: {name}"
            if name in found or name in taken or not NAME.fullmatch(name):
                what = "a direction's name is taken, or holds a space, a dot or `__`"
                expected = "a name of its own, which the keys of results are made of"
                raise UserError(what, where=where, found=name, expected=expected)
            check_vector(vector, width, where)
            found[name] = vector.astype(np.float64)
    return found
