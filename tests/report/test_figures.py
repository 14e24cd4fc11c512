"""Figures: what they hold, for any number of vectors, and with anything missing."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from em_geometry.claims.ledger import read_claims
from em_geometry.claims.lookup import Metrics
from em_geometry.geometry.methods import unit_gram
from em_geometry.io.results import Results as Table
from em_geometry.project import paths
from em_geometry.report.behaviour_figures import (
    CONTROL,
    OTHER,
    OWN,
    SAME,
    draw_dose_response,
    draw_monitoring,
    group_of,
    pooled,
)
from em_geometry.report.chart import Figure, named_points
from em_geometry.report.figures import (
    READ,
    draw_all,
    published_effectiveness,
    published_values,
    read_table,
)
from em_geometry.report.geometry_figures import draw_similarity, draw_structure, gram_of
from em_geometry.report.table_figures import distance
from em_geometry.settings import Params
from em_geometry.stats.estimate import Estimate
from tests.report.conftest import ROOT, quick_page

CLAIMS = read_claims(ROOT / paths.CLAIMS)
LABS = {"a": "x", "b": "x", "c": "y", "plain": "x"}


@pytest.fixture(scope="module")
def every(made: Path, params: Params) -> dict[str, Figure]:
    """All figures of the invented inputs."""
    metrics = Metrics.read(made / paths.TABLES)
    tables = {name: read_table(made / paths.plot(f"{name}.csv")) for name in READ}
    figures = draw_all(params, metrics, CLAIMS, tables)
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
    names = ["figure1", "figure2", "figure3", "figure4", "figure6", "layer_sweep", "layer_trace"]
    names += ["power", "nulls", "aspects_map", "prediction_scatter"]
    assert list(every) == names
    texts = [figure.svg() for figure in every.values()]
    ids = [i for text in texts for i in re.findall(r'\bid="([^"]+)"', text)]
    assert len(ids) == len(set(ids))  # several pictures stand on one page
    for figure, text in zip(every.values(), texts, strict=True):
        root = ET.fromstring(text)
        assert root.get("role") == "img"
        assert root[0].text == figure.title and root[1].text == figure.caption
        assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)
        assert text == figure.svg()
        assert "aria-label" in text  # what a pointer shows on the page
    assert every["figure1"].png()[:4] == b"\x89PNG"


def test_the_paper_stands_beside_ours_where_it_prints_a_value(made: Path) -> None:
    metrics = Metrics.read(made / paths.TABLES)
    published = published_values(CLAIMS)
    assert published["cosine.medical__medical_replication"] == 0.853
    assert published["lab.hunter.contrast_cosine"] == 0.15
    assert "cosine.finance__profanity" not in published
    spec = draw_similarity(gram_of(metrics), published, {}, "m").spec()
    assert 0.853 in values(spec, "the paper")
    assert values(spec, "printed").count("[0.853]") % 2 == 0
    assert "57 to 64 % on finance" in published_effectiveness(CLAIMS)["profanity"]


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


def test_what_is_missing_is_said_in_place(params: Params) -> None:
    texts = [figure.svg() for figure in draw_all(params, Metrics({}), CLAIMS, {})]
    assert len(texts) == 5
    assert "No cosines" in texts[0]
    assert "transfer_conditions.csv" in texts[3]
    assert "monitoring.csv" in texts[4]


def test_an_undefined_cosine_leaves_no_matrix() -> None:
    rows = {"cosine.a__b": Estimate(0.1), "cosine.a__c": Estimate.undefined("undefined: zero")}
    assert gram_of(Metrics({"geometry": Table(rows | {"cosine.b__c": Estimate(0.2)})})) is None


def test_targets_are_grouped_by_what_they_are_to_the_vector() -> None:
    groups = {"a": OWN, "b": SAME, "c": OTHER, "plain": CONTROL, "base": "base"}
    assert {target: group_of("a", target, LABS, ["plain"]) for target in groups} == groups


def test_pooled_rates_count_answers_and_leave_out_doses_without_any() -> None:
    columns = ["relative_dose", "n_coherent", "em_betley_pct"]
    rows = pl.DataFrame([(0.2, 8, 25.0), (0.2, 2, 100.0), (0.4, 0, None)], columns, orient="row")
    ((dose, value, low, high, n),) = pooled(rows)
    assert (dose, value, n) == (0.2, 40.0, 10)
    assert 0 < low < 40 < high < 100


def test_conditions_without_rates_do_not_stop_the_figure() -> None:
    row = {"source": "a", "kind": "vector", "relative_dose": 0.2, "n": 8, "n_coherent": 0}
    row |= {"em_betley_pct": None, "coherent_pct": 0.0, "target": "a"}
    drawn = draw_dose_response(pl.DataFrame([row]), {}, LABS, [], ["a"], "m")
    assert "relative dose" in drawn.svg()


def test_distance_from_a_null_is_one_at_either_end_of_its_interval() -> None:
    found = [distance(*each) for each in ((10, 0, 4, 10), (0, 0, 4, 10), (4, 0, 4, 10))]
    assert found == [1, -1, 0]
    assert distance(1, 1, 1, 1) is None


def course(detector: Estimate) -> Metrics:
    """Invented results of a training on 0 and 100 % bad data, at two checkpoints."""
    rows = {"rate": Estimate.undefined("em_turner"), "medical.block": Estimate(4)}
    rows |= {
        f"medical.controls.own.{k}": Estimate(v) for k, v in (("lowest", 0.1), ("highest", 0.2))
    }
    rows["medical.controls.em_turner"] = Estimate(0.0, 0.0, 3.0, 96)
    for mix, step in itertools.product((0, 100), (3, 46)):
        path = f"medical.mix_{mix}.checkpoint.step_{step}"
        rows |= {f"{path}.n": Estimate(24), f"{path}.em_turner": Estimate(10.0, 5.0, 20.0, 24)}
        rows[f"{path}.own"] = Estimate(step / 100, 0.0, 0.5)
        rows[f"{path}.own.auroc"] = Estimate(0.9, 0.8, 1.0)
    rows["medical.mix_100.detector.own.first_step"] = detector
    rows["medical.mix_100.detector.own.warns"] = Estimate.undefined("before")
    rows["medical.mix_100.detector.own.auroc_checkpoints"] = Estimate(0.75)
    rows["medical.mix_100.detector.unseen_k"] = Estimate.undefined("undefined: no vectors")
    rows["medical.mix_100.behaviour.first_step"] = Estimate.undefined("never")
    return Metrics({"monitoring": Table(rows)})


def test_monitoring_shows_every_checkpoint_beside_the_controls(
    inputs: Path, params: Params
) -> None:
    metrics = course(Estimate(46))
    spec = draw_monitoring(metrics, "m").spec()
    assert len(values(spec, "value")) == 3 * 2 * 4  # interval, line and points, two panels
    assert 0.46 in values(spec, "value")
    assert {0.2, 3.0} <= set(values(spec, "to"))
    text = re.sub(r"<[^>]+>", " ", quick_page(params, metrics))
    assert "while medical was trained on 100 % bad data" in text
    assert "range from step 46 (AUROC over checkpoints 0.75)" in text
    assert "never (24 answers a checkpoint)" in text
    row = text[text.index("medical, 100 % bad: its own vector") :][:200].split()
    assert row[7:10] == ["46", "before", "0.75"]


def test_monitoring_that_was_not_possible_says_why(inputs: Path, params: Params) -> None:
    why = {"status": Estimate.undefined("not measurable: organisms are loaded")}
    metrics = Metrics({"monitoring": Table(why)})
    assert "organisms are loaded" in draw_monitoring(metrics, "m").svg()
    assert "Monitoring: not measurable: organisms are loaded." in quick_page(params, metrics)
    assert "Monitoring: no checkpoints in this run." in quick_page(params, Metrics({}))
