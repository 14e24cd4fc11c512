"""The page's chapters on what goes beyond the paper: each a few sentences, tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from em_geometry.report.aspects import aspects_sentences, aspects_table
from em_geometry.report.lookup import Metrics
from em_geometry.report.monitoring import monitoring_sentence, monitoring_table
from em_geometry.report.prediction import prediction_sentences, prediction_table
from em_geometry.report.tables import Table


@dataclass(frozen=True)
class Chapter:
    """A section of the page; without any table it names what would make it.

    Attributes:
        name: id on the page, and the stem of its metrics file.
        stage: stage that writes it.
        figures: names of its figures.
    """

    name: str
    heading: str
    stage: str
    sentences: Sequence[str]
    tables: Sequence[Table]
    figures: Sequence[str] = field(default=())


def chapters(metrics: Metrics) -> list[Chapter]:
    """All chapters, in the order of the page."""
    predicted, kinds = prediction_table(metrics), aspects_table(metrics)
    trained = monitoring_table(metrics)
    return [
        Chapter(
            "monitoring",
            "Does a direction warn during training?",
            "monitoring",
            [monitoring_sentence(metrics)],
            [trained] if trained else [],
            ("figure6",),
        ),
        Chapter(
            "aspects",
            "Kinds of misbehaviour",
            "aspects",
            aspects_sentences(metrics),
            [kinds] if kinds else [],
            ("aspects_map",),
        ),
        Chapter(
            "prediction",
            "Does geometry predict transfer?",
            "geometry_predicts_transfer",
            prediction_sentences(metrics),
            [predicted] if predicted else [],
            ("prediction_scatter",),
        ),
    ]
