"""Small tables as text: aligned columns for people, CSV for plots and downloads."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence


def text_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns; numbers with four significant digits, on the right."""
    columns = []
    for name, *values in zip(header, *rows, strict=True):
        cells = [name, *map(_show, values)]
        right = any(isinstance(value, int | float) for value in values)
        width = max(map(len, cells))
        columns.append([cell.rjust(width) if right else cell.ljust(width) for cell in cells])
    lines = ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV with six significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row])
    return text.getvalue()


def _show(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.3g}"
    return str(value)
