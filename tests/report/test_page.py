"""The page: hostile texts, missing inputs, the same bytes twice, what its first lines name."""

from __future__ import annotations

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from em_geometry.report.answer import warnings
from em_geometry.report.html import render
from em_geometry.report.lookup import Metrics
from em_geometry.report.make_report import PAGE, main

from em_geometry.errors import UserError
from em_geometry.io.files import read_json, write_metrics
from em_geometry.report.figures import read_table
from em_geometry.report.samples import BUDGET, LONGEST, read_answers
from em_geometry.settings.params import Params
from tests.report.conftest import HOSTILE, ROOT

VOID = {"meta", "input", "br", "img", "link"}


class Outline(HTMLParser):
    """Collects tags, ids and balance of a page."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.ids += [str(found["id"])] if "id" in found else []
        self.links += [str(found[k]) for k in ("href", "src") if k in found]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)


@pytest.fixture(scope="session")
def page(first_run: Path) -> str:
    return (first_run / PAGE).read_text(encoding="utf-8")


def without_figures(params: Params) -> str:
    """The page of the working folder, quickly."""
    return render(params, Metrics.read(), [], read_answers(params), {})


def test_hostile_answers_are_shown_as_text(page: str) -> None:
    outline = Outline(page)
    assert outline.unbalanced == []
    assert outline.open == []
    assert outline.tags.count("script") == 3  # charts, their library, ours
    assert outline.tags.count("style") == 1
    assert "img" not in outline.tags
    assert "&lt;script&gt;document.title" in page
    assert "{{ 7*7 }}" in page
    assert "\x00" not in page
    assert "\u2400" in page
    assert HOSTILE not in page


def test_hostile_metrics_are_shown_as_text(inputs: Path, params: Params) -> None:
    judge = read_json(Path("metrics/judge.json"))
    judge |= {"gate": "failed: </script><b>\ud800", "judge": "<i>judge"}
    Path("metrics/judge.json").write_text(json.dumps(judge))
    page = without_figures(params)
    page.encode()
    outline = Outline(page)
    assert outline.unbalanced == []
    assert outline.tags.count("script") == 2
    assert "b" not in outline.tags


def test_convergence_stands_on_the_page_with_n_and_interval(page: str) -> None:
    table = page[page.index("Do orthogonal vectors come to act alike?") :]
    table = table[: table.index("</table>")]
    for part in ("random directions", "0.21", "0.15", "0.30", "16"):
        assert part in table


def test_contrasts_stand_side_by_side_with_what_they_do(page: str) -> None:
    table = page[page.index("The contrast is a choice") :].partition("</table>")[0]
    text = re.sub(r"[ \n]+", " ", re.sub(r"<[^>]+>", "|", table))
    assert "(b) model contrast, prompt last (chosen)" in text
    assert "0.61" in text and "\u22120.12" in text and "3 of 5" in text
    assert text.count("0.125 [\u22120.050,\u00a00.300]") == 2
    assert "(b) control contrast, prompt last" in text and "undefined: no control" in text
    assert "layer" not in text  # other choices are in sensitivity.csv


def test_nothing_is_fetched(page: str) -> None:
    outline = Outline(page)
    assert all(link.startswith(("#", "data:")) for link in outline.links)
    assert "default-src 'none'" in page
    assert len(outline.ids) == len(set(outline.ids))


def test_the_page_is_small_and_the_same_at_every_run(
    inputs: Path, params: Params, first_run: Path
) -> None:
    main(params)
    figures = (PAGE.with_name(f"figure{i}.{k}") for i in range(1, 5) for k in ("png", "svg"))
    for path in (PAGE, *figures):
        assert path.read_bytes() == (first_run / path).read_bytes()
    assert PAGE.stat().st_size < 5_000_000


def test_everything_missing_is_said_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: Params
) -> None:
    shutil.copytree(ROOT / "data/paper", tmp_path / "data/paper")
    monkeypatch.chdir(tmp_path)
    main(params)
    page = PAGE.read_text(encoding="utf-8")
    for stage in ("claims", "geometry", "probe_judge", "transfer", "judgements"):
        assert f"dvc repro {stage}" in page
    assert Outline(page).unbalanced == []


@pytest.mark.parametrize(
    "gone",
    [
        "geometry",
        "calibration",
        "baseline",
        "transfer",
        "judge",
        "claims",
        "published",
        "monitoring",
    ],
)
def test_any_one_metrics_file_may_be_missing(inputs: Path, params: Params, gone: str) -> None:
    (inputs / "metrics" / f"{gone}.json").unlink(missing_ok=True)
    shutil.rmtree(inputs / "data" / "responses")
    assert Outline(without_figures(params)).unbalanced == []


def test_a_failed_gate_wide_intervals_and_undefined_ratios_lead(
    inputs: Path, params: Params
) -> None:
    said = warnings(params, Metrics.read(), "m")
    assert "not passed its gate" in said[0].text
    wide = next(w for w in said if "wider than 40" in w.text)
    assert any("andyrdt on hunter" in item for item in wide.items)
    undefined = next(w for w in said if "undefined" in w.text)
    assert undefined.items[0] == "effectiveness of profanity on finance"
    assert "not that model" in said[-1].text


def test_a_passed_gate_and_narrow_intervals_are_not_mentioned(params: Params) -> None:
    risk = {"value_pct": 1.0, "low": 0.0, "high": 2.0, "n": 99, "status": "ok"}
    files = {"judge": {"gate": "passed"}, "transfer": {"risk_difference": {"a__b": risk}}}
    assert [w.text for w in warnings(params, Metrics(files), "Llama-3.1-8B")] == [
        "Measured on Llama-3.1-8B."
    ]


@pytest.mark.parametrize(("low", "named"), [(-0.05, True), (0.01, False)])
def test_vectors_like_random_directions_are_named(
    inputs: Path, params: Params, low: float, named: bool
) -> None:
    sweep = read_json(Path("metrics/layer_sweep.json"))
    sweep["efficacy"]["model_contrast"]["beyond_random"]["low"] = low
    write_metrics(Path("metrics/layer_sweep.json"), sweep)
    said = [w.text for w in warnings(params, Metrics.read(), "m") if "random direction" in w.text]
    assert bool(said) == named
    assert not named or "0.12 nats [\u22120.05,\u00a00.30] beyond it, n = 8" in said[0]


def test_quiet_organisms_are_named(inputs: Path, params: Params) -> None:
    baseline = read_json(Path("metrics/baseline.json"))
    baseline["sports"]["above_controls"] = "no"
    write_metrics(Path("metrics/baseline.json"), baseline)
    said = warnings(params, Metrics.read(), "m")
    assert ["sports"] in [list(w.items) for w in said]


def test_downloads_hold_the_tables(page: str) -> None:
    links = dict(re.findall(r'download="([^"]+)" href="data:[^,"]+,([^"]+)"', page))
    claims = base64.b64decode(links["claims.csv"]).decode()
    assert claims.startswith("id,section,quantity")
    latex = base64.b64decode(links["organisms.tex"]).decode()
    assert r"medical\_replication & andyrdt" in latex
    assert r"\begin{tabular}" in latex


def test_answers_are_sampled_from_every_condition_and_cut(inputs: Path, params: Params) -> None:
    answers = read_answers(params)
    conditions = {(a.target, a.condition) for a in answers}
    assert len(answers) == params.report.responses_shown * len(conditions)
    assert {a.target for a in answers} == set(params.targets)
    assert answers[0].condition == "unsteered"
    assert max(len(a.text) for a in answers) <= LONGEST
    assert sum(len(a.text) for a in answers) <= BUDGET
    assert any(a.cut > 0 for a in answers)
    assert "refusal" in {a.scores["aligned"] for a in answers}


def test_an_unreadable_table_is_an_error_that_names_it(inputs: Path) -> None:
    path = Path("plots/transfer_conditions.csv")
    path.write_bytes(b"\xff\xfe\x00,\n1,2,3\n")
    with pytest.raises(UserError, match="not a readable CSV"):
        read_table(path)


def test_provenance_names_models_judge_and_params(page: str, params: Params) -> None:
    footer = page[page.index('<footer id="provenance">') :]
    assert "probe-invented" in footer
    assert "finance finance0000" in footer
    assert params.base.source in footer
