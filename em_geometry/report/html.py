"""The page: everything a reader gets, in one self-contained file."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from em_geometry.report.answer import first_items, sentences, warnings
from em_geometry.report.beyond import chapters
from em_geometry.report.figures import model_name
from em_geometry.report.lookup import Metrics, number
from em_geometry.report.provenance import provenance
from em_geometry.report.samples import Answer
from em_geometry.report.tables import Table
from em_geometry.report.tables_calibration import nulls_table, story, tests_table
from em_geometry.report.tables_factorial import factorial_tables
from em_geometry.report.tables_models import (
    contrasts_table,
    external_table,
    judge_tables,
    organisms_table,
    vectors_table,
)
from em_geometry.report.tables_transfer import transfer_tables
from em_geometry.report.text import MINUS, NONE, short, visible
from em_geometry.report.vega import vega_script
from em_geometry.settings.params import Params

TEMPLATES = Path(__file__).parent / "page"
MAIN_FIGURES = ("figure1", "figure2", "figure3", "figure4", "figure6")  # files of their own
SWEEP_FIGURES = ("layer_sweep",)
CONTENTS = (
    ("answer", "The answer"),
    ("claims", "Claims"),
    ("figures", "Figures"),
    ("calibration", "What the tests can tell"),
    ("judge", "Judge"),
    ("organisms", "Models"),
    ("transfer", "Transfer"),
    ("monitoring", "Warning in training"),
    ("aspects", "Kinds of misbehaviour"),
    ("prediction", "Prediction"),
    ("factorial", "Lab or mechanism"),
    ("answers", "Answers"),
    ("downloads", "Downloads"),
    ("provenance", "Made from"),
)
DETAILS = {
    "metric": "Our metric",
    "formula": "Definition",
    "needs": "Needs",
    "recomputed": "From the paper's other numbers",
    "note": "Note",
    "hypotheses": "Hypotheses, not facts",
}


@dataclass(frozen=True)
class Picture:
    """A figure on the page: `svg` as drawn, and `spec` to draw it again with values on hovering."""

    name: str
    title: str
    caption: str
    svg: Markup
    spec: Mapping[str, Any]


@dataclass(frozen=True)
class Download:
    """A table inside the page, in one or two forms: file name -> data address."""

    what: str
    files: Mapping[str, str]


def environment() -> Environment:
    """Templates that escape everything and show control characters."""
    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        keep_trailing_newline=True,
    )
    found.filters["slug"] = lambda text: text.replace(" ", "-")
    return found


def own_file(name: str) -> Markup:
    """A style sheet or script of this folder; it must not hold an end tag."""
    text = (TEMPLATES / name).read_text(encoding="utf-8")
    if "</" in text:
        raise ValueError(f"{name} holds an end tag and cannot stand inside a page")
    return Markup(text)  # noqa: S704 (a file of this package, checked above)


def json_script(value: object) -> Markup:
    """JSON that can stand in a script element: no character of it ends one."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True)
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704 (no markup is left in it)


def claim_rows(metrics: Metrics) -> list[dict[str, Any]]:
    """The claims as the page shows them."""
    rows = []
    for name, claim in metrics.group("claims", "claim").items():
        if not isinstance(claim, Mapping) or "section" not in claim:
            continue
        ours = [_measured(part) for part in claim.get("part", {"": claim}).values()]
        details = [(label, str(claim[key])) for key, label in DETAILS.items() if key in claim]
        if "part" in claim:
            keys = "; ".join(str(part["metric"]) for part in claim["part"].values())
            details.insert(0, (DETAILS["metric"], keys))
        sections = [part.strip() for part in claim["section"].split(",")]
        paper = claim["published"]
        rows.append(
            {
                **{k: claim[k] for k in ("quantity", "unit", "verdict_published", "verdict_run")},
                "id": name,
                "published": paper if isinstance(paper, str) else f"{paper:g}",
                "ours": ours,
                "details": [("Section", claim["section"]), *details],
                "sections": "|".join(sections),
            }
        )
        rows[-1]["published"] = rows[-1]["published"].replace("-", MINUS)
    return rows


def _measured(part: Mapping[str, Any]) -> str:
    """A claim's measured number; its status stands in the note."""
    value, low, high = (number(part.get(key)) for key in ("ours", "low", "high"))
    if value is None:
        return NONE
    if low is None or high is None:
        return short(value)
    return f"{short(value)} [{short(low)}, {short(high)}]"


def downloads(tables: Sequence[Table], files: Mapping[str, str]) -> list[Download]:
    """Every table as CSV and LaTeX, and further CSV files by name."""
    found = [Download("as in plots/", {n: _address("csv", text)}) for n, text in files.items()]
    for table in tables:
        forms = {
            f"{table.name}.csv": _address("csv", table.csv()),
            f"{table.name}.tex": _address("x-tex", table.latex()),
        }
        found.append(Download(table.caption, forms))
    return found


def _address(kind: str, text: str) -> str:
    data = base64.b64encode(text.encode("utf-8", "replace")).decode()
    return f"data:text/{kind};charset=utf-8;base64,{data}"


def render(
    params: Params,
    metrics: Metrics,
    pictures: Sequence[Picture],
    answers: Sequence[Answer],
    files: Mapping[str, str],
) -> str:
    """The page as text.

    Args:
        pictures: drawn figures, in order.
        answers: sampled answers, in order.
        files: further files to download, name -> text.
    """
    model = model_name(params)
    claims = claim_rows(metrics)
    tests = [t for t in (tests_table(metrics), nulls_table(metrics)) if t]
    organisms, judge = organisms_table(params, metrics), judge_tables(metrics)
    vectors = (vectors_table(params, metrics), contrasts_table(metrics))
    given = [t for t in (*vectors, external_table(params, metrics)) if t]
    transfer = [*given, *transfer_tables(params, metrics)]
    factorial = factorial_tables(metrics)
    beyond = chapters(metrics)
    tables = [*tests, *judge, *([organisms] if organisms else []), *transfer, *factorial]
    tables += [table for chapter in beyond for table in chapter.tables]
    told = [name for chapter in beyond for name in chapter.figures]
    placed = [*MAIN_FIGURES, *SWEEP_FIGURES, *told]
    counts = metrics.group("claims", "count")
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            style=own_file("style.css"),
            script=own_file("script.js"),
            library=Markup(vega_script()) if pictures else "",  # noqa: S704 (the charts' library)
            charts=json_script({picture.name: picture.spec for picture in pictures}),
            contents=CONTENTS,
            model=model,
            profile=params.profile,
            sentences=sentences(metrics, model),
            warnings=warnings(params, metrics, model),
            first_items=first_items,
            claims=claims,
            claim_counts=[
                (label, list(counts[key].items()))
                for key, label in (("published", "Published"), ("run", "This run"))
                if key in counts
            ],
            verdicts={
                key: sorted({c[f"verdict_{key}"] for c in claims}) for key in ("published", "run")
            },
            sections=sorted({s for c in claims for s in c["sections"].split("|")}),
            figures=[p for p in pictures if p.name in MAIN_FIGURES and p.name not in told],
            calibration_figures=[p for p in pictures if p.name not in placed],
            transfer_figures=[p for p in pictures if p.name in SWEEP_FIGURES],
            calibration_tables=tests,
            story=story(metrics),
            calibrated="calibration" in metrics.files,
            gate=metrics.text("judge", "gate"),
            judge=metrics.text("judge", "judge"),
            judge_tables=judge,
            organisms=organisms,
            transfer_tables=transfer,
            beyond=[(c, [p for p in pictures if p.name in c.figures]) for c in beyond],
            factorial_tables=factorial,
            answers=answers,
            answer_targets=list(dict.fromkeys(a.target for a in answers)),
            answer_sources=list(dict.fromkeys(a.source for a in answers)),
            shown=params.report.responses_shown,
            downloads=downloads(tables, files),
            provenance=provenance(params, metrics),
        )
    )
