"""The page: hostile texts, missing inputs, the same bytes twice, what its first lines name."""

import base64
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from em_geometry.claims.lookup import Metrics
from em_geometry.errors import UserError
from em_geometry.io.results import Results as Table
from em_geometry.project import paths
from em_geometry.report.figures import read_table
from em_geometry.report.findings import findings
from em_geometry.report.samples import BUDGET, LONGEST, read_answers
from em_geometry.report.tables import Results
from em_geometry.report.text import decimals, joined, short, visible, with_interval
from em_geometry.settings import Params
from em_geometry.stats.estimate import Estimate
from tests.report.conftest import HOSTILE, quick_page, run_stage

VOID = {"meta", "input", "br", "img", "link"}


class Outline(HTMLParser):
    """Collects tags, ids and balance of a page."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags, self.ids, self.links = list[str](), list[str](), list[str]()
        self.open, self.unbalanced = list[str](), list[str]()
        self.feed(page)
        assert self.open == self.unbalanced == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.ids += [str(found["id"])] if "id" in found else []
        self.links += [str(found[k]) for k in ("href", "src") if k in found]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID and (not self.open or self.open.pop() != tag):
            self.unbalanced.append(tag)


@pytest.fixture(scope="session")
def page(first_run: Path) -> str:
    return (first_run / paths.REPORT).read_text(encoding="utf-8")


def measured(made: Path, stage: str, key: str) -> Estimate:
    return Metrics.read(made / paths.TABLES).measured(stage, key)


def test_hostile_answers_are_shown_as_text_and_nothing_is_fetched(page: str) -> None:
    outline = Outline(page)
    assert outline.tags.count("script") == 1 and "img" not in outline.tags
    assert all(link.startswith(("#", "data:")) for link in outline.links)
    assert "default-src 'none'" in page
    assert len(outline.ids) == len(set(outline.ids))
    assert "&lt;script&gt;document.title" in page
    assert "{{ 7*7 }}" in page
    assert "\x00" not in page
    assert "\u2400" in page
    assert HOSTILE not in page


def test_hostile_results_are_shown_as_text(inputs: Path, params: Params) -> None:
    judge = {"gate": "failed: </script><b>\ud800", "judge": "<i>judge"}
    rows = {key: Estimate.undefined(word) for key, word in judge.items()}
    text = quick_page(params, Metrics({"judge": Table(rows)}))
    text.encode()
    outline = Outline(text)
    assert outline.tags.count("script") == 1 and "b" not in outline.tags


def test_tables_stand_on_the_page_with_n_and_interval(page: str, made: Path) -> None:
    def table(start: str) -> str:
        text = re.sub(r"<[^>]+>", "|", page[page.index(start) :].partition("</table>")[0])
        return re.sub(r"[ \n]+", " ", text)

    acting = table("Do orthogonal vectors come to act alike?")
    end = measured(made, "downstream_convergence", "random.end")
    assert "random directions" in acting
    assert f"{end.value:.2f} [{end.low:.2f},\u00a0{end.high:.2f}]" in acting
    contrasts = table("The contrast is a choice")
    assert "(b) model contrast, prompt last (chosen)" in contrasts and "of 5" in contrasts
    assert "layer" not in contrasts


def test_the_page_is_small_and_the_same_at_every_run(inputs: Path, first_run: Path) -> None:
    run_stage("report")
    figures = (paths.plot(f"figure{i}.{k}") for i in range(1, 7) for k in ("png", "svg"))
    for path in (paths.REPORT, *figures):
        assert path.read_bytes() == (first_run / path).read_bytes()
    assert paths.REPORT.stat().st_size < 2_000_000


def test_everything_missing_is_said_in_place(inputs: Path) -> None:
    judged = paths.JUDGEMENTS, paths.BASELINE_JUDGEMENTS, paths.BASELINE_RESPONSES
    for folder in (paths.METRICS, paths.PLOTS, *judged, paths.BASE_MODEL):
        shutil.rmtree(folder)
    run_stage("report")
    text = paths.REPORT.read_text(encoding="utf-8")
    for stage in ("claims", "geometry", "judge", "transfer", "judgements"):
        assert f"dvc repro {stage}" in text
    Outline(text)


STAGES = "geometry calibration baseline transfer judge layer_sweep published monitoring"


@pytest.mark.parametrize("gone", STAGES.split())
def test_any_one_stage_may_be_missing(inputs: Path, params: Params, gone: str) -> None:
    found = Metrics.read(paths.TABLES)
    left = {name: table for name, table in found.stages.items() if name != gone}
    Outline(quick_page(params, Metrics(left)))


def named(params: Params, **stages: dict[str, Estimate]) -> tuple[dict[str, Any], str]:
    """What is named in the first lines, and these lines."""
    metrics = Metrics({name: Table(rows) for name, rows in stages.items()})
    care = re.search(r'<div class="care".*?</div>', quick_page(params, metrics), re.DOTALL)
    assert care
    return findings(Results(params, metrics)), re.sub(r"<[^>]+>", "", care[0])


def test_a_failed_gate_wide_intervals_and_undefined_ratios_lead(
    inputs: Path, params: Params
) -> None:
    rows = {
        "own.a": Estimate(5.0, -20.0, 30.0, 8),
        "named_pair.c__d.e1": Estimate.undefined("undefined: why"),
        "named_pair.c__d.e2": Estimate.undefined("undefined: why"),
    }
    rows |= {f"base.{i}": Estimate(5.0, -30.0, 30.0) for i in range(8)}
    gate = {"gate": Estimate.undefined("failed: kappa")}
    found, said = named(params, judge=gate, transfer=rows)
    places = [said.index(s) for s in ("failed: kappa", "9 of 11 numbers", "2 ratios", "tests the")]
    assert places == sorted(places)
    assert found["wide"][0] == "change of a by its own vector (50 points)"
    assert found["undefined"][0] == "effectiveness of c on d"
    assert "change of the base by 4 (60 points); and 3 more." in said
    narrow = {"own.a": Estimate(1.0, 0.0, 2.0, 99)}
    _, said = named(params, judge={"gate": Estimate.undefined("passed")}, transfer=narrow)
    assert said.split("care", 1)[1].strip().startswith("This is a measurement of m;")


@pytest.mark.parametrize(("low", "weak"), [(-0.05, True), (0.01, False)])
def test_weak_vectors_and_quiet_organisms_are_named(
    inputs: Path, params: Params, low: float, weak: bool
) -> None:
    slug = params.slugs("organism")[0]
    sweep = {
        "contrast": Estimate.undefined("model_contrast"),
        "span": Estimate.undefined("prompt_last"),
        "efficacy.model_contrast.prompt_last": Estimate(0.125, low, 0.3, 8),
    }
    baseline = {f"{slug}.above_controls": Estimate.undefined("no")}
    found, said = named(params, layer_sweep=sweep, baseline=baseline)
    assert ("further than random directions" in said) == weak
    assert found["quiet"] == [slug] and f"controls) for: {slug}." in said


def test_answers_are_sampled_from_every_condition_and_cut(inputs: Path, params: Params) -> None:
    shown = params.report.responses_shown
    folders = paths.BASELINE_JUDGEMENTS, paths.JUDGEMENTS
    answers = read_answers(folders, params.targets, params.judging.aspects, shown)
    conditions = {(a.target, a.condition) for a in answers}
    assert len(answers) == shown * len(conditions)
    assert {a.target for a in answers} == set(params.targets)
    assert answers[0].condition == "unsteered"
    assert max(len(a.text) for a in answers) <= LONGEST
    assert sum(len(a.text) for a in answers) <= BUDGET
    assert any(a.cut > 0 for a in answers)
    assert "refusal" in {a.scores["aligned"] for a in answers}


def test_an_unreadable_table_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "transfer_conditions.csv"
    path.write_bytes(b"\xff\xfe\x00,\n1,2,3\n")
    with pytest.raises(UserError, match="not a readable CSV"):
        read_table(path)


def test_provenance_and_downloads(page: str, params: Params, made: Path) -> None:
    links = dict(re.findall(r'download="([^"]+)" href="data:[^,"]+,([^"]+)"', page))
    assert base64.b64decode(links["claims.csv"]).decode().startswith("id,section,quantity")
    assert base64.b64decode(links["organisms.csv"]).decode().startswith("model,laboratory")
    footer = page[page.index('<footer id="provenance">') :]
    assert measured(made, "judge", "judge").status in footer
    assert f"{params.targets[1]} {params.targets[1]:0<16}"[:20] in footer
    assert params.base.source in footer


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (decimals(0.0049, 2), "0.00"),
        (decimals(-0.0049, 2), "0.00"),
        (decimals(-1.25, 1), "\u22121.2"),
        (decimals(3, 0), "3"),
        (short(None), "\u2013"),
        (short(48.0), "48"),
        (short(0.12345), "0.123"),
        (short(-256.68), "\u2212257"),
        (short(1e-9), "1e\u221209"),
        (with_interval(Estimate(12.5, 3.14, 30.2), " %"), "12.5 % [3.1,\u00a030.2]"),
        (with_interval(Estimate(12.5)), "12.5"),
        (with_interval(Estimate.undefined("undefined: why")), "undefined: why"),
        (joined(["a"]), "a"),
        (joined(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_numbers_intervals_and_lists(said: str, expected: str) -> None:
    assert said == expected


def test_control_characters_and_surrogates_become_visible() -> None:
    assert visible("a\x00b\x1b\x7f\x85\ud800\n\tc") == "a\u2400b\u241b\u2421\ufffd\ufffd\n\tc"
    assert visible(3) == 3
    assert visible(Markup("<b>")) == Markup("<b>")
    "".join(str(visible(chr(c))) for c in range(0x110000)).encode()
