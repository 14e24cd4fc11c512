"""The page: everything a reader gets, in one self-contained file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from em_geometry.claims.lookup import Metrics
from em_geometry.claims.verdict import Judged, numbers_text, verdict_counts
from em_geometry.report.chart import FIGURES, Figure
from em_geometry.report.findings import findings
from em_geometry.report.samples import Answer
from em_geometry.report.tables import Results, Table, all_tables, layout
from em_geometry.report.text import PAGE, words
from em_geometry.settings import Params


@dataclass(frozen=True)
class Picture:
    """A drawn figure."""

    figure: Figure
    svg: str

    @property
    def section(self) -> str:
        """Where it stands on the page."""
        return str(words(FIGURES)[self.figure.name].get("section", "calibration"))

    @property
    def markup(self) -> Markup:
        """The picture for the page."""
        return Markup(self.svg)  # noqa: S704 (our own drawing)


def own_file(name: str) -> Markup:
    """A style sheet or script of this folder; it must not hold an end tag."""
    text = (PAGE / name).read_text(encoding="utf-8")
    if "</" in text:
        raise ValueError(f"{name} holds an end tag and cannot stand inside a page")
    return Markup(text)  # noqa: S704 (a file of this package, checked above)


def downloads(tables: Sequence[Table], files: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """File name, what it is and its address inside the page, of every table and of `files`."""
    found = [(name, "as in plots/", _address(text)) for name, text in files.items()]
    return found + [(f"{t.name}.csv", t.caption, _address(t.csv())) for t in tables]


def _address(text: str) -> str:
    data = base64.b64encode(text.encode("utf-8", "replace")).decode()
    return f"data:text/csv;charset=utf-8;base64,{data}"


def render(
    params: Params,
    metrics: Metrics,
    model: str,
    claims: Sequence[Judged],
    pictures: Sequence[Picture],
    answers: Sequence[Answer],
    files: Mapping[str, str],
    made_from: Sequence[tuple[str, str]],
) -> str:
    """The page as text.

    Args:
        model: name of the measured base model.
        claims: judged ones; none where the stage has not run.
        pictures: drawn figures, in order.
        answers: sampled answers, in order.
        files: further files to download, name -> text.
        made_from: what the numbers were made from, by label.
    """
    found = Results(params, metrics)
    tables = all_tables(found)
    sections = layout()["sections"]
    return found.environment.get_template("page.html.j2").render(
        findings(found, model),
        style=own_file("style.css"),
        script=own_file("script.js"),
        sections=sections,
        model=model,
        claims=claims,
        numbers_text=numbers_text,
        claim_counts=verdict_counts(claims),
        claim_sections=sorted({s for row in claims for s in row.claim.section.split(", ")}),
        tables={name: [t for t in tables if t.section == name] for name in sections},
        pictures={name: [p for p in pictures if p.section == name] for name in sections},
        answers=answers,
        answer_targets=list(dict.fromkeys(a.target for a in answers)),
        answer_sources=list(dict.fromkeys(a.source for a in answers)),
        downloads=downloads(tables, files),
        provenance=made_from,
    )
