"""Claims of several papers: one schema, what judges them, and where they contradict each other."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from em_geometry.claims.ledger import Paper, read_papers
from em_geometry.claims.lookup import Metrics
from em_geometry.claims.papers import (
    claims_text,
    judge_papers,
    papers_csv,
    papers_text,
    questions,
    questions_csv,
    questions_text,
)
from em_geometry.claims.published import recounted
from em_geometry.claims.verdict import BESIDE, UNMEASURED
from em_geometry.cli import app
from em_geometry.errors import UserError
from em_geometry.io.results import Results
from em_geometry.project import paths
from em_geometry.report.tables import as_written
from em_geometry.settings import EXPERIMENTS
from em_geometry.stats.estimate import Estimate
from tests.conftest import ROOT

PAPERS = read_papers(ROOT / paths.PAPERS, paths.FIRST)
OTHERS = [(slug, claim) for slug, p in PAPERS.items() if slug != paths.FIRST for claim in p.claims]
HERE, LARGE = "Small-1B", "Large-14B"


def test_at_least_sixty_claims_of_at_least_five_other_papers() -> None:
    assert len(OTHERS) >= 60 and len({slug for slug, _ in OTHERS}) >= 5
    assert next(iter(PAPERS)) == paths.FIRST
    identified = [paper.arxiv for paper in PAPERS.values() if paper.arxiv]
    assert len({*identified}) == len(identified) >= 5
    for slug, claim in OTHERS:
        assert claim.model and claim.evidence, (slug, claim.id)
        assert claim.would_need.startswith(f"{claim.needs} of {claim.model}")
        assert recounted(claim).verdict == claim.verdict, (slug, claim.id)


def test_claims_of_neighbours_name_what_their_experiments_measured() -> None:
    kept = ROOT / "docs/results-smol_more"
    metrics = Metrics.read(kept)
    named = {m for _, c in OTHERS for m in c.metrics if m.partition(":")[0] in EXPERIMENTS}
    assert len(named) > 10
    for where in named:
        assert metrics.estimate(where).value is not None, where
    judged = judge_papers(PAPERS, paths.FIRST, metrics, "SmolLM2-135M-Instruct")
    rows = {row.claim.id: row for slug in PAPERS for row in judged[slug] if slug != paths.FIRST}
    assert rows["N03"].verdict_run == BESIDE and rows["W02"].measured[0].value is not None
    off = judge_papers(PAPERS, paths.FIRST, Metrics({}), "SmolLM2-135M-Instruct")["nadaf2026"][1]
    assert off.verdict_run == UNMEASURED and "subspaces" in off.note


def test_every_quantity_is_one_of_several_papers() -> None:
    named: dict[str, set[str]] = {}
    for slug, paper in PAPERS.items():
        for claim in paper.claims:
            if claim.about:
                named.setdefault(claim.about, set()).add(slug)
    assert len(named) >= 5
    assert [about for about, slugs in named.items() if len(slugs) < 2] == []


def test_what_a_claim_leaves_out_comes_from_its_paper_unit_and_section() -> None:
    by_id = {claim.id: claim for _, claim in OTHERS}
    assert by_id["T08"].model == "Qwen2.5-Coder-32B-Instruct"
    assert (by_id["T10"].model, by_id["T10"].margin) == ("Qwen2.5-14B-Instruct", 5.0)
    assert (by_id["T10"].seen, by_id["T17"].seen) == ("read", "second hand")
    first = {claim.id: claim for claim in PAPERS[paths.FIRST].claims}
    assert [first[k].evidence for k in ("C001", "A11", "C008")] == [
        "printed number", "figure", "words"
    ]  # fmt: skip
    assert first["C057"].margin == pytest.approx(0.4)  # of a ratio, a share


# -- invented papers


def paper(claims: list[dict[str, Any]], models: list[str]) -> dict[str, Any]:
    fixed = {
        "section": "1", "quantity": "q", "unit": "cosine", "formula": "similarity",
        "needs": "vectors", "verdict": "needs models", "metric": "geometry:cosine.a__b",
    }  # fmt: skip
    whole = [fixed | {"id": f"Z{i}"} | claim for i, claim in enumerate(claims)]
    head = {"title": "T", "arxiv": None, "year": 2026, "models": models, "seen": "read"}
    return head | {"claims": whole}


def written(folder: Path, **papers: dict[str, Any]) -> dict[str, Paper]:
    for slug, content in papers.items():
        (folder / f"{slug}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return read_papers(folder, "first")


RUN = Metrics(
    {
        "geometry": Results({"cosine.a__b": Estimate(0.9, 0.89, 0.91, 10)}),
        "published": Results({"claims.Z0.verdict": Estimate.undefined("inconsistent")}),
    }
)
NOWHERE = {"metric": None, "reason": "a larger model"}


def test_a_claim_about_another_model_is_never_judged(tmp_path: Path) -> None:
    claims = [
        {"value": 0.1},
        {"value": 0.1, "model": f"host/{HERE.lower()}"},
        {"value": 0.9, "model": HERE},
        {"value": 0.9, "metric": "geometry:cosine.x__y"},
        {"value": 0.9, **NOWHERE},
    ]
    papers = written(tmp_path, first=paper(claims, [HERE]), other=paper(claims, [LARGE]))
    rows = judge_papers(papers, "first", RUN, HERE)
    said = [row.verdict_run for row in rows["other"]]
    assert said == [BESIDE, "differs", "reproduced", UNMEASURED, UNMEASURED]
    assert rows["other"][0].note.startswith(f"Printed for {LARGE}; this run measures {HERE}.")
    assert rows["other"][0].measured[0].value == 0.9
    # what follows from the first paper is not what follows from another with the same ids
    assert rows["first"][0].verdict_published == "inconsistent with the paper itself"
    assert rows["other"][0].verdict_published == "needs models"
    table = papers_csv(rows, "first").splitlines()
    assert len(table) == 6 and all(line.startswith("other,") for line in table[1:])
    assert "vectors of Large-14B (a larger model)" in table[5]
    assert "a larger model" in claims_text(rows["other"])
    assert re.search(r"other +2026 +5 +5 needs models", papers_text(papers, rows))


@pytest.mark.parametrize(
    ("value", "published", "expected"),
    [
        (36.3, {"of": 645, "count": 234}, "reproduced"),
        (36.3, {"of": 645, "count": 235}, "inconsistent"),
        (17.5, {"of": 80}, "underdetermined"),
        (17.4, {"of": 80}, "inconsistent"),  # no whole number of 80 is 17.4 %
    ],
)
def test_a_percentage_is_held_against_its_counts(
    tmp_path: Path, value: float, published: dict[str, int], expected: str
) -> None:
    claim = {"value": value, "unit": "percent", "tolerance": 0.05, **NOWHERE}
    claim |= {"published": {"arithmetic": True, **published}}
    papers = written(tmp_path, first=paper([claim], [HERE]), other=paper([claim], [HERE]))
    assert recounted(papers["other"].claims[0]).verdict == expected
    row = judge_papers(papers, "first", RUN, HERE)["other"][0]
    assert row.verdict_run == UNMEASURED and row.recomputed[0].value is not None


@pytest.mark.parametrize(
    ("one", "other", "model", "says"),
    [
        ({"value": 0.9}, {"value": 0.1}, LARGE, "contradict each other"),
        ({"value": 0.9}, {"value": 0.1}, HERE, "differ, on different models"),
        ({"value": 0.9}, {"value": 0.82}, LARGE, "agree"),  # each within its margin
        ({"value": 0.8, "reads": "above"}, {"value": 0.0, "reads": "below"}, LARGE,
         "contradict each other"),
        ({"value": 0.8, "reads": "above"}, {"value": 0.9}, LARGE, "agree"),
        ({"value": 0.9}, {"value": 90.0, "unit": "percent"}, LARGE, "say it in other numbers"),
        ({"value": 0.9}, {"value": None, "reads": "words", **NOWHERE}, LARGE,
         "say it in other numbers"),
    ],
)  # fmt: skip
def test_contradictions(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any], model: str, says: str
) -> None:
    about = {"about": "cosine of two organisms"}
    alone = {"about": "what one paper says twice"}
    papers = written(
        tmp_path,
        first=paper([one | about, {"value": 0.5} | alone, {"value": 0.1} | alone], [LARGE]),
        second=paper([other | about], [model]),
    )
    found = questions(judge_papers(papers, "first", RUN, "Tiny"))
    assert [(each.about, each.says) for each in found] == [("cosine of two organisms", says)]
    assert [slug for slug, _ in found[0].claims] == ["first", "second"]
    lines = questions_csv(found).splitlines()
    assert len(lines) == 3 and lines[1].endswith(",0.9,0.89,0.91")
    assert says in questions_text(found)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"published": {"fitted": True}}, "second.yaml: Z0.published"),
        ({"published": {"arithmetic": True, "count": 3}}, "count"),
        ({"evidence": "rumour"}, "evidence"),
        ({"seen": "dreamt"}, "seen"),
        ({"unit": "furlong"}, "furlong"),
        ({"id": "first one"}, "id"),
    ],
)
def test_a_broken_paper_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    good = {"value": 0.9}
    with pytest.raises(UserError, match=re.escape(says)):
        written(tmp_path, first=paper([good], [HERE]), second=paper([good | changes], [HERE]))
    head = paper([good], [HERE]) | {"arxiv": "12-34"}
    with pytest.raises(UserError, match="arxiv"):
        written(tmp_path, second=head)


def test_the_page_shows_both_tables() -> None:
    rows = judge_papers(PAPERS, paths.FIRST, RUN, "Tiny")
    files = {"papers.csv": papers_csv(rows, paths.FIRST), "claims.csv": "id,section"}
    assert [(table.name, len(table.rows)) for table in as_written(files)] == [
        ("papers", len(OTHERS))
    ]
    files["contradictions.csv"] = questions_csv(questions(rows))
    table = as_written(files)[0]
    assert (table.section, table.header[:3]) == ("claims", ["about", "the papers", "paper"])
    assert {row[1].text for row in table.rows} >= {"agree", "differ, on different models"}


def test_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(app, ["published", "--paper", "replications"])
    assert result.exit_code == 0 and "behaviour of Qwen2.5-32B-Instruct" in result.output
    wrong = CliRunner().invoke(app, ["published", "--paper", "nobody"])
    assert wrong.exit_code == 2 and "turner2025" in wrong.output
    shown = CliRunner().invoke(app, ["papers"]).output
    assert all(slug in shown for slug in PAPERS)
    about = "similarity of the vectors of different organisms"
    assert f"{about}: the papers differ, on different models" in shown
