"""The page: hostile texts, missing inputs, the same bytes twice, what its first lines name."""

import base64
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markupsafe import Markup

from em_geometry.claims.lookup import Metrics
from em_geometry.errors import UserError
from em_geometry.io.results import Results as Table
from em_geometry.project import paths, readme
from em_geometry.project.readme import README, with_verdict
from em_geometry.report.figures import read_table
from em_geometry.report.findings import Summary, findings, summary
from em_geometry.report.samples import BUDGET, LONGEST, read_answers
from em_geometry.report.tables import Results
from em_geometry.report.text import decimals, joined, p_value, short, visible, with_interval
from em_geometry.settings import Params
from em_geometry.stats.estimate import Estimate
from tests.conftest import ROOT
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
    return Metrics.read(made / paths.TABLES).estimate(f"{stage}:{key}")


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
    judge = {"gate.says": "failed: </script><b>\ud800", "judge": "<i>judge"}
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
    assert "(chosen)" in contrasts and "of 5" in contrasts
    assert "layer" not in contrasts


def test_a_result_that_is_not_there_leaves_a_dash(page: str) -> None:
    """Where nothing else is said of it: a detector that is undefined has no excess, say."""
    assert not re.findall(r"no [\w.]+ in this run", page)
    assert ">\u2013<" in page


def test_the_page_is_small_and_the_same_at_every_run(inputs: Path, first_run: Path) -> None:
    run_stage("report")
    figures = [*paths.PLOTS.glob("figure*.png"), *paths.PRINT.iterdir()]
    assert len(figures) == 3 * 11
    for path in (paths.REPORT, *figures):
        assert path.read_bytes() == (first_run / path).read_bytes()
    assert paths.REPORT.stat().st_size < 2_000_000


def test_everything_missing_is_said_in_place(inputs: Path) -> None:
    judged = paths.JUDGEMENTS, paths.BASELINE_JUDGEMENTS
    for folder in (paths.METRICS, paths.PLOTS, *judged, paths.BASE_MODEL):
        shutil.rmtree(folder)
    run_stage("report")
    text = paths.REPORT.read_text(encoding="utf-8")
    for stage in ("claims", "geometry", "judge", "transfer", "judgements"):
        assert f"dvc repro {stage}" in text
    Outline(text)


STAGES = "geometry calibration baseline margins transfer judge layer_sweep published monitoring"


@pytest.mark.parametrize("gone", STAGES.split())
def test_any_one_stage_may_be_missing(inputs: Path, params: Params, gone: str) -> None:
    found = Metrics.read(paths.TABLES)
    left = {name: table for name, table in found.stages.items() if name != gone}
    Outline(quick_page(params, Metrics(left)))


def summed(params: Params, **stages: dict[str, Estimate | str]) -> Summary:
    """The verdict on invented results, a word being a result too."""
    rows = {
        name: Table({k: Estimate.undefined(v) if isinstance(v, str) else v for k, v in of.items()})
        for name, of in stages.items()
    }
    return summary(Results(rows, params), [], "m")


def margins(params: Params, low: float, word: str) -> dict[str, Estimate | str]:
    """Every organism, vector and pair has the same margin, of which its interval says `word`."""
    slugs, rows = params.slugs("organism"), dict[str, Estimate | str]()
    found = Estimate(0.25, low, 0.5 - low, 24)
    for s in slugs:
        key = f"vector.{s}.beyond_random"
        rows |= {f"organism.{s}.misaligned": found, f"organism.{s}.misaligned.says": word}
        rows |= {key: found, f"vector.{s}.way": "vector", f"vector.{s}.random_95": Estimate(0.1)}
        rows[f"vector.{s}.steers"] = "yes" if word == "effect" else word
        for t in slugs:
            rows |= {f"transfer.{s}__{t}": found, f"transfer.{s}__{t}.says": word,
                     f"transfer.{s}__{t}.p_holm": Estimate(0.01)}  # fmt: skip
    return rows


def test_words_are_no_stronger_than_their_intervals(params: Params) -> None:
    nothing = summed(params)
    assert len(nothing.sentences) == 8 and "was not measured in this run" in nothing.sentences[2]
    for word, low, organisms, rest in (
        ("effect", 0.1, "6 of 6 organisms prefer", "control) does, and"),
        (
            "cannot tell",
            -0.1,
            "0 of 6 organisms prefer",
            "(6 not to be told, as less than 0.49 nats",
        ),
        (
            "no effect",
            -0.1,
            "0 of 6 organisms prefer",
            "(6 without effect (within 0.1 nats a token))",
        ),
    ):
        told = summed(params, margins=margins(params, low, word))
        assert organisms in told.sentences[2] and rest in told.sentences[2]
    one = margins(params, 0.1, "effect") | {"organism.finance.misaligned.says": "cannot tell"}
    told = summed(params, margins=one)
    assert "5 of 6 organisms" in told.sentences[2] and "(1 not to be told" in told.sentences[2]
    unsure = {k: Estimate(0.2) if k.endswith("p_holm") else v for k, v in one.items()}
    told = summed(params, margins=unsure)
    assert (told.numbers["pairs"].value, told.numbers["pairs_untold"].value) == (0, 30)


@pytest.mark.parametrize(
    ("low", "p", "said"),
    [(0.1, (0.01, 0.01), "shown"), (0.1, (0.01, 0.2), "partly shown"),
     (0.1, (0.2, 0.2), "not to be told"), (-0.1, (0.01, 0.01), "not to be told")],
)  # fmt: skip
def test_a_shared_direction_needs_an_interval_above_0_and_both_nulls(
    params: Params, low: float, p: tuple[float, float], said: str
) -> None:
    key, mean = "statistic.similarity.cross_mean", Estimate(0.4, low, 0.7, 10)
    rows: dict[str, Estimate | str] = {"contrast": "control_contrast", key: mean}
    for null, value in zip(("exchanged", "finetunes"), p, strict=True):
        rows |= {f"{key}.{null}": Estimate(0.1, 0, 0.3), f"{key}.{null}.p_holm": Estimate(value)}
    under = {f"reference.{name}.cross_mean": mean for name in ("base", "own_control")}
    found = summed(params, geometry=dict(under), calibration=rows)
    assert (
        found.words["shared"] == said and f"a common direction is {said} (p" in found.sentences[4]
    )
    assert found.numbers["chance"].value == 0.3
    other = rows | {"contrast": "model_contrast"}
    found = summed(params, geometry=dict(under), calibration=other)
    assert found.words["shared"] == "not to be told" and "chance" not in found.numbers


def test_two_directions_differ_only_where_relabelling_says_so_too(params: Params) -> None:
    lab = "asymmetry.lab.model_organisms__hunter"
    for gap, p, said in (
        (Estimate(0.3, 0.2, 0.4, 36), 0.01, "effect"),
        (Estimate(0.3, 0.2, 0.4, 36), 0.2, "cannot tell"),
        (Estimate(0.1, -0.2, 0.4, 36), 0.01, "cannot tell"),
        (Estimate(0.0, -0.05, 0.05, 36), 0.9, "no effect"),
    ):
        rows: dict[str, Estimate | str] = {lab: gap, f"{lab}.p_holm": Estimate(p)}
        rows |= {f"{lab}.e1_{way}": Estimate(90, 80, 100) for way in ("there", "back")}
        found = summed(params, margins=margins(params, 0.1, "effect") | rows)
        assert found.words["gap"] == said
        text = found.sentences[-3]
        assert (", which differ." in text) == (said == "effect")
        assert ("would be missed" in text) == (said == "cannot tell")
        assert ("alike within 0.1 nats" in text) == (said == "no effect")


def test_every_number_of_the_verdict_is_one_of_the_run_s_results(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No number is written into the sentences, but those that say what the paper is."""
    monkeypatch.chdir(made)
    found = readme.measured()
    assert len(found.sentences) == 10
    known = {"95", "80", "0", "90", "2.5", "0.1", "0.6", "135", "3.1", "8"}
    for name, e in found.numbers.items():
        for part in (e.value, e.low, e.high, e.n):
            known |= {decimals(part, digits) for digits in range(4)} if part is not None else set()
        known |= {f"{found.paper[name]:g}"} if name in found.paper else set()
    known |= {"57", "64", "12", "15"}  # ends of the printed ranges
    told = re.findall(r"\u2212?\d+(?:\.\d+)?", " ".join(found.sentences))
    assert set(told) - known == set()
    for sentence, word in zip(found.sentences, ("paper", "five tests", "organisms"), strict=False):
        assert word in sentence
    text = " ".join(found.sentences)
    for term in ("contrast", "organisms", "core", "control", "clusters", "lab"):
        assert re.search(rf"\((?:an? |no )?{term}\b", text), f"{term} is not defined"


def test_readme_gives_the_verdict_of_this_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = README.read_text(encoding="utf-8")
    assert with_verdict(text) == text, "run: make readme"


def test_answers_are_sampled_from_every_condition_and_cut(inputs: Path, params: Params) -> None:
    shown = params.report.responses_shown
    folders = paths.BASELINE_JUDGEMENTS, paths.JUDGEMENTS
    found = read_answers(folders, params.originals(), params.judging.aspects, shown)
    assert len(found) == shown * len({(a.target, a.condition) for a in found})
    assert {a.target for a in found} == set(params.answering())
    assert found[0].condition == "unsteered"
    assert max(len(a.text) for a in found) <= LONGEST
    assert sum(len(a.text) for a in found) <= BUDGET
    assert any(a.cut > 0 for a in found)
    assert "refusal" in {a.scores["aligned"] for a in found}


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


@pytest.mark.parametrize(
    ("p", "said"), [(0.0, "< 0.001"), (4e-4, "< 0.001"), (5e-4, "0.001"), (0.04, "0.040")]
)
def test_a_p_never_reads_as_zero(p: float, said: str) -> None:
    assert p_value(p) == said


def test_a_move_that_holm_does_not_confirm_cannot_be_told(params: Params) -> None:
    """Said of each vector: by their intervals alone two of these three have an effect."""
    said = {"finance": ("effect", 0.01), "sports": ("effect", 0.2), "profanity": ("no effect", 1.0)}
    rows: dict[str, Estimate] = {}
    for source, (word, p) in said.items():
        key = f"aligned.base.{source}.beyond_random"
        rows |= {key: Estimate(-9.0, -12.0, -6.0), f"{key}.says": Estimate.undefined(word)}
        rows[f"{key}.p_holm"] = Estimate(p)
    moved = findings(Results({"aspects": Table(rows)}, params))["moved"]
    apart, counts = moved("aligned")
    assert [source for source, _ in apart] == ["finance"]
    assert counts == {"effect": 1, "no effect": 1, "cannot tell": 1}
