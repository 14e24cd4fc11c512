"""What the report's tables are made of, and their form as CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

from em_geometry.report.text import NO_BREAK

SHADES = 3  # steps of shading on each side of zero
STRONG = 60.0  # percentage points that take the darkest shade
LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "\u2212": "$-$",
        "\u2013": "--",
        "\n": " ",
        NO_BREAK: "~",
    }
)


@dataclass(frozen=True)
class Cell:
    """One cell: `text`, a word for its style ("" = none), and what a pointer shows."""

    text: str
    style: str = ""
    hover: str = ""


@dataclass(frozen=True)
class Table:
    """A table of the report; the first column names the row.

    Attributes:
        name: id on the page and file name of downloads.
        caption: what it shows, with units.
        note: how to read it.
    """

    name: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]] = field(default_factory=list)
    note: str = ""

    def csv(self) -> str:
        """The table as CSV."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows([cell.text.replace(NO_BREAK, " ") for cell in row] for row in self.rows)
        return text.getvalue()

    def latex(self) -> str:
        """The table as a LaTeX `tabular` in a `table`."""
        lines = [
            r"\begin{table}",
            rf"\caption{{{self.caption.translate(LATEX)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(self.header) - 1)}}}",
            r"\hline",
            " & ".join(h.translate(LATEX) for h in self.header) + r" \\",
            r"\hline",
        ]
        lines += [" & ".join(c.text.translate(LATEX) for c in row) + r" \\" for row in self.rows]
        return "\n".join([*lines, r"\hline", r"\end{tabular}", r"\end{table}"]) + "\n"


def cells(*texts: str) -> list[Cell]:
    """Plain cells."""
    return [Cell(text) for text in texts]


def shade(value: float | None) -> str:
    """Style of a signed percentage: `pos1` to `pos3`, `neg1` to `neg3`, "" near zero or none."""
    if value is None:
        return "none"
    step = min(SHADES, round(abs(value) / STRONG * SHADES))
    return "" if step == 0 else f"{'pos' if value > 0 else 'neg'}{step}"
