"""`em-geometry published` and `papers`: what follows from papers themselves, this run beside."""

from em_geometry.claims.ledger import Paper, read_claims, read_papers
from em_geometry.claims.lookup import Metrics
from em_geometry.claims.papers import (
    Rows,
    claims_text,
    judge_papers,
    papers_text,
    questions,
    questions_text,
)
from em_geometry.claims.printed_gram import read_family, read_published_gram
from em_geometry.claims.published import audit, calibration_of, calibration_table, claims_table
from em_geometry.project import paths
from em_geometry.project.paper_tag import Slug, paper_of
from em_geometry.settings import load_params


def cli(paper: Slug = paths.FIRST) -> None:
    """Recompute a paper's claims from its own published numbers, as far as they suffice."""
    if paper == paths.FIRST:
        gram = read_published_gram(paths.COSINES)
        family = read_family(gram, paths.FAMILY)
        audited = audit(read_claims(paths.CLAIMS), gram, family)
        calibration, _ = calibration_of(gram, family)
        print(claims_table(audited), calibration_table(calibration), sep="\n\n")
        return
    found, (_, rows) = paper_of(paper), _beside()
    print(f"{found.title} ({found.year})", claims_text(rows[paper]), sep="\n\n")


def papers() -> None:
    """Print the papers, and what several of them make claims about, with this run's numbers."""
    known, rows = _beside()
    print(papers_text(known, rows), questions_text(questions(rows)), sep="\n\n")


def _beside() -> tuple[dict[str, Paper], Rows]:
    known, params = read_papers(paths.PAPERS, paths.FIRST), load_params(paths.PARAMS)
    metrics = Metrics.read(paths.TABLES, params.more.experiments)
    return known, judge_papers(known, paths.FIRST, metrics, params.model_name)
