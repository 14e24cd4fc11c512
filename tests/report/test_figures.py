"""Figures: what they hold, for any number of vectors, and with anything missing."""

import re
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.text import Text

from em_geometry.claims.ledger import read_claims
from em_geometry.claims.lookup import Metrics
from em_geometry.claims.verdict import Judged, judge_claim
from em_geometry.geometry.methods import unit_gram
from em_geometry.io.results import Results
from em_geometry.project import paths
from em_geometry.report import behaviour_figures as behaviour
from em_geometry.report import chart
from em_geometry.report import geometry_figures as geometry
from em_geometry.report.chart import Chart, Figure, Panel
from em_geometry.report.figures import READ, draw_all, published_values, read_table
from em_geometry.settings import Params
from em_geometry.stats.estimate import Estimate
from tests.report.conftest import ROOT, quick_page

CELLS = pl.DataFrame(  # of a multiverse
    [
        ("base", "prompt_last", b, w, 10.0 * b, 0.5, "ok")
        for b in (4, 8)
        for w in ("with", "without")
    ]
    + [("own_control", "prompt_last", 4, "with", None, None, "undefined: no controls")],
    ["reference", "span", "block", "massive_dimensions", "angle_deg", "cross_mean", "status"],
    orient="row",
)


def judged(metrics: Metrics) -> list[Judged]:
    return [judge_claim(claim, metrics) for claim in read_claims(ROOT / paths.CLAIMS)]


@pytest.fixture(scope="module")
def every(made: Path, params: Params) -> dict[str, Figure]:
    """All figures of the invented inputs."""
    metrics = Metrics.read(made / paths.TABLES)
    tables = {name: read_table(made / paths.plot(f"{name}.csv")) for name in READ}
    tables["multiverse"] = CELLS
    return {f.name: f for f in draw_all(params, "m", metrics, judged(metrics), tables)}


def values(chart: Chart | str, key: str) -> list[object]:
    """Everything that stands at `key` in the tables of a chart."""
    assert not isinstance(chart, str)
    return [row[key] for panel in chart.panels for row in panel.rows if key in row]


def test_every_figure_is_drawn_and_described(every: dict[str, Figure]) -> None:
    assert list(every) == [f"figure{i}" for i in range(1, 12)]
    titles = [figure.title.partition(". ")[0] for figure in every.values()]
    assert titles == [f"Figure {i}" for i in range(1, 12)]
    texts = [figure.svg for figure in every.values()]
    ids = [i for text in texts for i in re.findall(r'\bid="([^"]+)"', text)]
    assert len(ids) == len(set(ids))  # several pictures stand on one page
    for figure, text in zip(every.values(), texts, strict=True):
        root = ET.fromstring(text)
        assert root.get("role") == "img"
        assert root[0].text == figure.title and root[1].text == figure.caption
        assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)
        assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)
        told = text.count("aria-label=")  # what a pointer shows on the page
        assert told >= min(len(figure.rows), 1)
        assert "mark:" not in text
    assert every["figure1"].file("png")[:4] == b"\x89PNG"
    assert every["figure1"].file("pdf")[:5] == b"%PDF-"


def test_nothing_of_a_figure_is_cut_off(every: dict[str, Figure]) -> None:
    for figure in every.values():
        sheet = figure.sheet
        page, drawn = sheet.bbox_inches, sheet.get_tightbbox()
        assert drawn.x0 > -0.05 and drawn.x1 < page.x1 + 0.05, figure.title
        assert drawn.y0 > -0.05 and drawn.y1 < page.y1 + 0.05, figure.title


def test_axes_have_titles_and_the_paper_s_marks_a_name(every: dict[str, Figure]) -> None:
    for figure in every.values():
        assert not isinstance(figure.chart, str)
        shown = " ".join(t.get_text() for t in figure.sheet.findobj(Text))
        assert (chart.PAPER in shown) == any(row.get("paper") is not None for row in figure.rows)
        for panel, ax in zip(figure.chart.panels, figure.sheet.axes, strict=False):
            words = [label.get_text() for label in (*ax.get_xticklabels(), *ax.get_yticklabels())]
            numbers = any(re.fullmatch(r"[\d.\u2212-]+", word) for word in words)
            assert (panel.x or panel.y) or not numbers or figure.name == "figure1", panel.title


def test_a_mark_tells_its_row_whatever_is_in_it() -> None:
    row = {"of": '<b>"&', "by": "a", "value": 0.5, "low": 0.1, "high": 0.9, "paper": 0.7}
    draw = partial(chart.dots, code=chart.coded(["a"]))
    told = chart.figure("figure7", "m", Chart([Panel([row], draw, x="cosine")]))
    root = ET.fromstring(told.svg)
    labels = {e.get("aria-label") for e in root.iter() if e.get("role") == "graphics-symbol"}
    assert labels == {'of: <b>"&; by: a; value: 0.5; low: 0.1; high: 0.9; paper: 0.7'}
    assert told.csv.splitlines()[0] == "panel,of,by,value,low,high,paper"


def test_the_paper_stands_beside_ours_where_it_prints_a_value(every: dict[str, Figure]) -> None:
    claims = judged(Metrics({}))
    published = published_values(claims)
    assert published["cosine.medical__medical_replication"] == 0.853
    assert published["lab.hunter.contrast_cosine"] == 0.15
    assert "cosine.finance__profanity" not in published
    assert values(every["figure1"].chart, "paper").count(0.853) == 2
    assert "[0.853]" in every["figure1"].svg
    assert 0.853 in values(every["figure5"].chart, "paper")


@pytest.mark.parametrize("count", [2, 3, 9])
def test_any_number_of_vectors(count: int) -> None:
    gram = unit_gram(np.random.default_rng(0).standard_normal((count, 16)))
    names = [f"v{i}" for i in range(count)]
    clusters = {"one": names[:1], "two": names[1:2]}
    drawn = geometry.similarity((names, gram), {}, clusters)
    assert set(values(drawn, "of")) == {*names}
    found = geometry.structure((names, gram), {}, clusters, "average")
    assert isinstance(found, str) if count < 3 else {*names} <= {*values(found, "of")}
    assert all(chart.figure("figure1", "m", c).svg for c in (drawn, found))


def test_names_do_not_lie_on_each_other() -> None:
    points = np.array([[0.0, 0.0], [0.0, 0.02], [1.0, 1.0]])
    rows = geometry.named(["below", "above", "far"], points, {})
    assert [row["side"] for row in rows] == [-1, 1, 1]


def test_what_is_missing_is_said_in_place(params: Params) -> None:
    drawn = draw_all(params, "m", Metrics({}), judged(Metrics({})), {})
    missing = ["No cosines", "Fewer", "base_similarity.csv", "No doses", "is measured",
               "monitoring.csv", "No references", "multiverse.csv", "not calibrated",
               "layer_sweep.csv", "power.csv"]  # fmt: skip
    for figure, said in zip(drawn, missing, strict=True):
        assert said in figure.svg


def test_an_undefined_cosine_leaves_no_matrix() -> None:
    rows = {"cosine.a__b": Estimate(0.1), "cosine.a__c": Estimate.undefined("undefined: zero")}
    rows["cosine.b__c"] = Estimate(0.2)
    assert geometry.gram_of(Metrics({"geometry": Results(rows)})) is None


def test_doses_stand_in_order_with_nothing_at_0_and_chance_at_1() -> None:
    gains = {"dose.a.1": 0.5, "dose.a.-0_5": -0.2, "chance.a": 0.1}
    rows = {key: Estimate(v, v - 0.1, v + 0.1, 24) for key, v in gains.items()}
    drawn = behaviour.dose_response(Metrics({"margins": Results(rows)}))
    found = list(zip(*(values(drawn, key) for key in ("of", "dose", "value")), strict=True))
    of = [at for at in found if at[0] == "vector"]
    assert of == [("vector", -0.5, -0.2), ("vector", 0.0, 0.0), ("vector", 1.0, 0.5)]
    assert [at for at in found if at not in of] == [("random directions", 1.0, 0.1)]
    assert "random directions of the same norm" in chart.figure("figure4", "m", drawn).svg


def test_references_stand_side_by_side_with_what_the_paper_prints() -> None:
    rows = {
        f"reference.{name}.{key}": Estimate(value + i, value + i - 5, value + i + 5)
        for i, name in enumerate(("base", "own_control"))
        for key, value in (("angle_deg.a__b", 40.0), ("cross_mean", 0.5))
    }
    metrics = Metrics({"geometry": Results(rows)})
    drawn = geometry.references(metrics, {"cluster_angle.a__b_deg": 100.2})
    assert set(values(drawn, "value")) == {0.5, 1.5, 40.0, 41.0}
    assert set(values(drawn, "paper")) == {100.2, None}
    assert set(values(drawn, "of")) == {"a and b", "across clusters"}


def test_the_multiverse_shows_every_defined_cell() -> None:
    drawn = geometry.multiverse(CELLS, ["tame", "wild"], (8, "prompt_last"))
    assert sorted(values(drawn, "value")) == [0.5] * 4 + [40.0, 40.0, 80.0, 80.0]
    assert set(values(drawn, "of")) == {"base, last prompt token"}
    assert values(drawn, "chosen").count("yes") == 2  # as the verdicts: massive dimensions kept
    assert not isinstance(drawn, str) and "Angle of tame and wild" in drawn.panels[0].title
    assert isinstance(geometry.multiverse(CELLS[-1:]), str)


def test_distance_from_a_null_is_one_at_either_end_of_its_interval() -> None:
    null = Estimate(4.0, 0.0, 10.0)
    assert [geometry.distance(v, null) for v in (10, 0, 4, None)] == [1, -1, 0, None]
    assert geometry.distance(1, Estimate(1.0, 1.0, 1.0)) is None


def course(detector: Estimate) -> Metrics:
    """Invented results of a training at two checkpoints."""
    rows = {"benign": Estimate(6), "medical.block": Estimate(4)}
    for step in (3, 46):
        path = f"medical.checkpoint.step_{step}"
        rows[f"{path}.margin"] = Estimate(0.3, 0.1, 0.5, 48)
        rows[f"{path}.own"] = Estimate(step / 100, 0.0, 0.5, 10)
        rows |= {f"{path}.own.auroc": Estimate(0.9), f"{path}.own.p": Estimate(0.14)}
    rows["medical.detector.own.first_step"] = detector
    rows["medical.detector.own.warns"] = Estimate.undefined("before")
    rows["medical.detector.unseen_k"] = Estimate.undefined("undefined: no vectors")
    rows["medical.behaviour.first_step"] = Estimate.undefined("never")
    return Metrics({"monitoring": Results(rows)})


def test_monitoring_shows_every_checkpoint_beyond_the_benign_ones(
    inputs: Path, params: Params
) -> None:
    metrics = course(Estimate(46))
    drawn = behaviour.monitoring(metrics)
    assert len(values(drawn, "value")) == 2 * 2  # panels, checkpoints
    assert not isinstance(drawn, str) and len(drawn.panels) == 2  # not of undefined detectors
    assert 0.46 in values(drawn, "value")
    text = re.sub(r"<[^>]+>", " ", quick_page(params, metrics))
    said = "beyond benign trainings were, while medical was trained, the shift along its own vector"
    assert f"{said} from step 46, that along" in text
    assert "undefined: no vectors, and the margin of misaligned answers never." in text
    row = text[text.index("medical: its own vector") :][:200].split()
    assert row[5:7] == ["46", "before"]


def test_monitoring_that_was_not_possible_says_why(inputs: Path, params: Params) -> None:
    why = "not measurable: organisms are loaded"
    metrics = Metrics({"monitoring": Results({"status": Estimate.undefined(why)})})
    assert behaviour.monitoring(metrics) == why
    assert f"Monitoring: {why}." in quick_page(params, metrics)
    assert "Monitoring: no checkpoints in this run." in quick_page(params, Metrics({}))
