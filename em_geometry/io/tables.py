"""Small tables as text: aligned columns for people, CSV for plots and downloads."""

from __future__ import annotations

import csv
import io
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

LINE = 100  # characters
NARROW = 10  # a column of words that has no more is not broken


def text_table(
    header: Sequence[str], rows: Sequence[Sequence[object]], line: int | None = None
) -> str:
    """Aligned columns; numbers with four significant digits, on the right.

    Args:
        line: characters that no line should be longer than; columns of words are broken for it, the
            widest first.
    """
    values = [cells for _, *cells in zip(header, *rows, strict=True)]
    right = [any(isinstance(cell, int | float) for cell in cells) for cells in values]
    shown = [list(header), *([_show(cell) for cell in row] for row in rows)]
    sizes, least = [], []
    for cells, numbers in zip(zip(*shown, strict=True), right, strict=True):
        sizes.append(max(map(len, cells)))
        words = (len(word) for cell in cells for word in re.split("[ -]", cell))
        least.append(sizes[-1] if numbers else max(NARROW, *words))
    while line and sum(sizes) + 2 * (len(sizes) - 1) > line:
        wide = [i for i, size in enumerate(sizes) if size > least[i]]
        if not wide:
            break
        sizes[max(wide, key=sizes.__getitem__)] -= 1
    head, *others = (list(_lines(row, sizes, right)) for row in shown)
    below = [each for row in others for each in row]
    return "\n".join([*head, "-" * max(map(len, [*head, *below])), *below])


def _lines(row: Sequence[str], sizes: Sequence[int], right: Sequence[bool]) -> Iterator[str]:
    """One row, on as many lines as its longest cell needs."""
    broken = [
        textwrap.wrap(cell, size) if len(cell) > size else [cell]
        for cell, size in zip(row, sizes, strict=True)
    ]
    for parts in zip_longest(*broken, fillvalue=""):
        each = zip(parts, sizes, right, strict=True)
        cells = (part.rjust(size) if numbers else part.ljust(size) for part, size, numbers in each)
        yield "  ".join(cells).rstrip()


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
