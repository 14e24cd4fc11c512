"""The page: everything a reader gets, in one self-contained file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from em_geometry.claims.lookup import Metrics
from em_geometry.claims.verdict import Judged, verdict_counts
from em_geometry.report.chart import Figure
from em_geometry.report.findings import findings
from em_geometry.report.samples import Answer
from em_geometry.report.tables import Names, Results, Table, all_tables
from em_geometry.report.text import MINUS, NONE, PAGE, short
from em_geometry.settings.params import Params
from em_geometry.stats.estimate import Estimate

SECTIONS = {  # id: what the contents call it, heading, and what makes it
    "answer": ("The answer", "The answer", ""),
    "claims": ("Claims", "The paper's claims", "claims"),
    "figures": ("Figures", "Figures", ""),
    "calibration": ("What the tests can tell", "What the tests can tell", "geometry"),
    "judge": ("Judge", "The judge", "judge"),
    "organisms": ("Models", "The models, unsteered", "transfer"),
    "transfer": ("Transfer", "Transfer", "transfer"),
    "monitoring": ("Warning in training", "Does a direction warn during training?", "monitoring"),
    "aspects": ("Kinds of misbehaviour", "Kinds of misbehaviour", "aspects"),
    "prediction": ("Prediction", "Does geometry predict transfer?", "geometry_predicts_transfer"),
    "factorial": ("Lab or mechanism", "The laboratory or the mechanism?", "factorial"),
    "answers": ("Answers", "Answers, to see what the numbers mean", "judgements"),
    "downloads": ("Downloads", "Downloads", ""),
}
PLACES = {  # figure: section; the others stand in `calibration`
    **dict.fromkeys(("figure1", "figure2", "figure3", "figure4"), "figures"),
    "layer_sweep": "transfer",
    "figure6": "monitoring",
    "aspects_map": "aspects",
    "prediction_scatter": "prediction",
}


@dataclass(frozen=True)
class Picture:
    """A drawn figure."""

    figure: Figure
    svg: str

    @property
    def section(self) -> str:
        """Where it stands on the page."""
        return PLACES.get(self.figure.name, "calibration")

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


def claim_row(row: Judged) -> Names:
    """A claim as the page shows it."""
    claim = row.claim
    details = {
        "Section": claim.section,
        "Our metric": "; ".join(claim.metrics),
        "Definition": claim.formula,
        "Needs": claim.needs,
        "From the paper's other numbers": "; ".join(f"{e.value:.4g}" for e in row.recomputed),
        "Note": row.note,
        "Hypotheses, not facts": " ".join(claim.hypotheses),
    }
    return {
        "id": claim.id,
        "quantity": claim.quantity,
        "unit": claim.unit,
        "published": claim.text.replace("-", MINUS),
        "ours": [_measured(m) for m in row.measured] or [NONE],
        "verdict_published": row.verdict_published,
        "verdict_run": row.verdict_run,
        "details": [(label, text) for label, text in details.items() if text],
        "sections": "|".join(part.strip() for part in claim.section.split(",")),
    }


def _measured(found: Estimate) -> str:
    """A claim's measured number; why there is none stands in the note."""
    if found.value is None or found.low is None or found.high is None:
        return short(found.value)
    return f"{short(found.value)} [{short(found.low)}, {short(found.high)}]"


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
    rows = [claim_row(row) for row in claims]
    kinds = ("published", "run")
    return found.environment.get_template("page.html.j2").render(
        findings(found, model),
        style=own_file("style.css"),
        script=own_file("script.js"),
        sections=SECTIONS,
        model=model,
        claims=rows,
        claim_counts=verdict_counts(claims),
        verdicts={kind: sorted({row[f"verdict_{kind}"] for row in rows}) for kind in kinds},
        claim_sections=sorted({s for row in rows for s in row["sections"].split("|")}),
        tables={name: [t for t in tables if t.section == name] for name in SECTIONS},
        pictures={name: [p for p in pictures if p.section == name] for name in SECTIONS},
        answers=answers,
        answer_targets=list(dict.fromkeys(a.target for a in answers)),
        answer_sources=list(dict.fromkeys(a.source for a in answers)),
        downloads=downloads(tables, files),
        provenance=made_from,
    )
