"""Several papers beside each other and beside this run (docs/method.md: claims ledger)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from em_geometry.claims.ledger import Claim, Interval, Paper
from em_geometry.claims.lookup import Metrics
from em_geometry.claims.published import audit_results, recounted
from em_geometry.claims.verdict import (
    COLUMNS,
    CONTRADICTED,
    Judged,
    judge_claim,
    same_model,
)
from em_geometry.io.results import Results, as_estimate
from em_geometry.io.tables import LINE, csv_text, text_table

FOLLOWS = {  # from the paper itself, in words for any paper
    "reproduced": "follows",
    CONTRADICTED: "contradicts",
    "underdetermined": "cannot be told",
}
Rows = Mapping[str, Sequence[Judged]]  # of each paper, by its slug


@dataclass(frozen=True)
class Question:
    """A quantity that several papers make claims about."""

    about: str
    claims: tuple[tuple[str, Judged], ...]  # with the slug of the paper
    says: str  # whether the papers' numbers can be one and the same


def judge_papers(papers: Mapping[str, Paper], first: str, metrics: Metrics, model: str) -> Rows:
    """Every claim beside this run; judged by it only where it is about the run's model.

    Args:
        metrics: of this run; `published` among them holds what follows from the first paper.
        model: that this run measures.
    """
    rows = {}
    for slug, paper in papers.items():
        seen = metrics
        if slug != first:
            found = audit_results([recounted(claim) for claim in paper.claims])
            published = Results({key: as_estimate(leaf) for key, leaf in found.items()})
            seen = Metrics({**metrics.stages, "published": published})
        rows[slug] = [judge_claim(claim, seen, model) for claim in paper.claims]
    return rows


def questions(rows: Rows) -> list[Question]:
    """What claims of at least two papers are about, in the order of its first claim."""
    found: dict[str, list[tuple[str, Judged]]] = {}
    for slug, judged in rows.items():
        for row in judged:
            if row.claim.about is not None:
                found.setdefault(row.claim.about, []).append((slug, row))
    return [
        Question(about, tuple(claims), _says(claims))
        for about, claims in found.items()
        if len({slug for slug, _ in claims}) > 1
    ]


def _says(claims: Sequence[tuple[str, Judged]]) -> str:
    """Whether claims of different papers allow the same number; on one model where that differs."""
    kinds = set()
    for (slug, one), (another, other) in combinations(claims, 2):
        a, b = one.claim, other.claim
        if slug != another and a.numbers and b.numbers and a.unit == b.unit:
            (low, high), (least, most) = _reach(a), _reach(b)
            apart = high < least or most < low
            kinds.add((apart, apart and same_model(a.model, b.model)))
    if not kinds:
        return "say it in other numbers"
    if (True, True) in kinds:
        return "contradict each other"
    return "differ, on different models" if (True, False) in kinds else "agree"


def _reach(claim: Claim) -> Interval:
    """What a claim allows, from its lowest number to its highest."""
    parts = [claim.allowed(part) for part in range(len(claim.numbers))]
    return min(low for low, _ in parts), max(high for _, high in parts)


def follows(row: Judged) -> str:
    """Whether a claim follows from its paper itself."""
    return FOLLOWS.get(row.verdict_published, row.verdict_published)


# Columns of the tables; several numbers in one cell are set apart by semicolons.
CELLS = COLUMNS | {
    "claim": lambda r: r.claim.id,
    "model": lambda r: r.claim.model,
    "evidence": lambda r: r.claim.evidence or "",
    "seen": lambda r: r.claim.seen,
    "follows": follows,
    "would_need": lambda r: r.claim.would_need,
}
SHOWN = ("claim", "quantity", "model", "published", "unit", "follows", "ours", "verdict_run")
ANSWERS = ("claim", "quantity", "model", "published", "unit", "ours", "low", "high")
WHOLE = ("claim", "section", "quantity", "model", "published", "unit", "evidence", "seen",
         "follows", "ours", "low", "high", "verdict_run", "would_need", "metric",
         "note")  # fmt: skip


def _cells(row: Judged, names: Sequence[str]) -> list[str]:
    return [CELLS[name](row) for name in names]


def papers_csv(rows: Rows, first: str) -> str:
    """The claims of all papers but the first, a row a claim."""
    others = [(slug, row) for slug, judged in rows.items() if slug != first for row in judged]
    return csv_text(["paper", *WHOLE], [[slug, *_cells(row, WHOLE)] for slug, row in others])


def questions_csv(found: Sequence[Question]) -> str:
    """What several papers make claims about, a row a claim."""
    lines = [
        [each.about, each.says, slug, *_cells(row, ANSWERS)]
        for each in found
        for slug, row in each.claims
    ]
    return csv_text(["about", "says", "paper", *ANSWERS], lines)


def questions_text(found: Sequence[Question]) -> str:
    """The same for people: a small table for each."""
    parts = []
    for each in found:
        lines = [[slug, *_cells(row, ANSWERS)] for slug, row in each.claims]
        parts += [
            f"{each.about}: the papers {each.says}",
            text_table(["paper", *ANSWERS], lines, LINE),
        ]
    return "\n\n".join(parts)


def papers_text(papers: Mapping[str, Paper], rows: Rows) -> str:
    """The papers for people, and how many claims of each have which verdict."""
    lines = []
    for slug, paper in papers.items():
        counts = Counter(map(follows, rows[slug])), Counter(r.verdict_run for r in rows[slug])
        told = ["; ".join(f"{n} {v}" for v, n in count.most_common()) for count in counts]
        lines.append([slug, paper.arxiv or "", paper.year, len(paper.claims), *told])
    return text_table(
        ["paper", "arXiv", "year", "claims", "from the paper", "this run"], lines, LINE
    )


def claims_text(judged: Sequence[Judged]) -> str:
    """The claims of one paper for people, and what each would need."""
    needs = text_table(
        ["claim", "would need"], [[r.claim.id, r.claim.would_need] for r in judged], LINE
    )
    return f"{text_table(SHOWN, [_cells(r, SHOWN) for r in judged], LINE)}\n\n{needs}"
