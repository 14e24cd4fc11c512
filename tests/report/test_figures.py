"""Figures: what they hold, for any number of vectors, and with anything missing."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from em_geometry.claims.ledger import read_claims
from em_geometry.claims.lookup import Metrics
from em_geometry.claims.verdict import Judged, judge_claim
from em_geometry.geometry.methods import unit_gram
from em_geometry.io.results import Results
from em_geometry.project import paths
from em_geometry.report import behaviour_figures as behaviour
from em_geometry.report import geometry_figures as geometry
from em_geometry.report.chart import Figure
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


def values(spec: object, key: str) -> list[object]:
    """Everything that stands at `key` in the rows of a chart."""
    if isinstance(spec, list):
        return [v for inner in spec for v in values(inner, key)]
    if not isinstance(spec, dict):
        return []
    rows = spec.get("values") or []
    own = [r[key] for r in rows if isinstance(r, dict) and key in r]
    return own + [v for name, inner in spec.items() if name != "values" for v in values(inner, key)]


def test_every_figure_is_drawn_and_described(every: dict[str, Figure]) -> None:
    numbered = [f"figure{i}" for i in range(1, 9)]
    assert list(every) == [*numbered, "nulls", "layer_sweep", "power"]
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
        assert "aria-label" in text  # what a pointer shows on the page
    assert every["figure1"].png[:4] == b"\x89PNG"


def test_the_paper_stands_beside_ours_where_it_prints_a_value(every: dict[str, Figure]) -> None:
    claims = judged(Metrics({}))
    published = published_values(claims)
    assert published["cosine.medical__medical_replication"] == 0.853
    assert published["lab.hunter.contrast_cosine"] == 0.15
    assert "cosine.finance__profanity" not in published
    spec = every["figure1"].spec
    assert 0.853 in values(spec, "the paper")
    assert values(spec, "printed").count("[0.853]") % 2 == 0
    assert 0.853 in values(every["figure5"].spec, "value")


@pytest.mark.parametrize("count", [2, 3, 9])
def test_any_number_of_vectors(count: int) -> None:
    gram = unit_gram(np.random.default_rng(0).standard_normal((count, 16)))
    names = [f"v{i}" for i in range(count)]
    clusters = {"one": names[:1], "two": names[1:2]}
    drawn = geometry.similarity((names, gram), {}, clusters).to_dict()
    assert set(values(drawn, "a")) == {*names}
    drawn = geometry.structure((names, gram), {}, clusters, "average")
    assert isinstance(drawn, str) if count < 3 else {*names} <= {*values(drawn.to_dict(), "name")}


def test_names_do_not_lie_on_each_other() -> None:
    points = np.array([[0.0, 0.0], [0.02, 0.0], [1.0, 1.0]])
    spec = geometry.named_points(["left", "right", "far"], points, {}, ("x", "y")).to_dict()
    assert values(spec, "left")[:2] == [True, False]


def test_what_is_missing_is_said_in_place(params: Params) -> None:
    texts = [f.svg for f in draw_all(params, "m", Metrics({}), judged(Metrics({})), {})]
    missing = ["No cosines", "Fewer", "base_similarity.csv", "No doses", "is measured",
               "monitoring.csv", "No references", "multiverse.csv"]  # fmt: skip
    for text, said in zip(texts, missing, strict=True):
        assert said in text


def test_an_undefined_cosine_leaves_no_matrix() -> None:
    rows = {"cosine.a__b": Estimate(0.1), "cosine.a__c": Estimate.undefined("undefined: zero")}
    rows["cosine.b__c"] = Estimate(0.2)
    assert geometry.gram_of(Metrics({"geometry": Results(rows)})) is None


def test_doses_stand_in_order_with_nothing_at_0_and_chance_at_1() -> None:
    gains = {"dose.a.1": 0.5, "dose.a.-0_5": -0.2, "chance.a": 0.1}
    rows = {key: Estimate(v, v - 0.1, v + 0.1, 24) for key, v in gains.items()}
    drawn = behaviour.dose_response(Metrics({"margins": Results(rows)})).to_dict()
    found = values(drawn, "gain")
    assert found[:3] == [-0.2, 0.0, 0.5] and values(drawn, "dose")[:3] == [-0.5, 0.0, 1.0]
    assert found[-1] == pytest.approx(0.1)


def test_references_stand_side_by_side_with_what_the_paper_prints() -> None:
    rows = {
        f"reference.{name}.{key}": Estimate(value + i, value + i - 5, value + i + 5)
        for i, name in enumerate(("base", "own_control"))
        for key, value in (("angle_deg.a__b", 40.0), ("cross_mean", 0.5))
    }
    metrics = Metrics({"geometry": Results(rows)})
    drawn = geometry.references(metrics, {"cluster_angle.a__b_deg": 100.2}).to_dict()
    assert set(values(drawn, "value")) == {0.5, 1.5, 40.0, 41.0, 100.2}
    assert set(values(drawn, "of")) == {"a, b", "across clusters"}


def test_the_multiverse_shows_every_defined_cell() -> None:
    drawn = geometry.multiverse(CELLS).to_dict()
    assert sorted(values(drawn, "angle_deg")) == [40.0, 40.0, 80.0, 80.0]
    assert set(values(drawn, "choice")) == {"base, prompt last"}
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
    spec = behaviour.monitoring(metrics).to_dict()
    assert len(values(spec, "value")) == 2 * 2  # panels, checkpoints
    assert 0.46 in values(spec, "value")
    text = re.sub(r"<[^>]+>", " ", quick_page(params, metrics))
    said = (
        "while medical was trained, the shift along its own vector left 6 benign trainings behind"
    )
    assert f"{said} from step 46, that along" in text
    assert "undefined: no vectors; the margin of misaligned answers did never." in text
    row = text[text.index("medical: its own vector") :][:200].split()
    assert row[4:6] == ["46", "before"]


def test_monitoring_that_was_not_possible_says_why(inputs: Path, params: Params) -> None:
    why = "not measurable: organisms are loaded"
    metrics = Metrics({"monitoring": Results({"status": Estimate.undefined(why)})})
    assert behaviour.monitoring(metrics) == why
    assert f"Monitoring: {why}." in quick_page(params, metrics)
    assert "Monitoring: no checkpoints in this run." in quick_page(params, Metrics({}))
