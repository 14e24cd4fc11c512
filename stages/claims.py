"""Stage `claims`: every claim of the paper beside what this run measured, and those of others."""

from collections import Counter

from em_geometry.claims.ledger import Claim, read_papers
from em_geometry.claims.lookup import Metrics
from em_geometry.claims.papers import judge_papers, papers_csv, questions, questions_csv
from em_geometry.claims.verdict import (
    Judged,
    claim_values,
    claims_csv,
    judge_claim,
    series,
    verdict_counts,
)
from em_geometry.io.files import write_text
from em_geometry.io.results import write_metrics
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.settings import Params


def _ours(row: Judged) -> tuple[Claim, list[float | None]]:
    """This run's numbers, one for each metric."""
    return row.claim, [m.value for m in row.measured]


@stage
def main(params: Params) -> None:
    metrics = Metrics.read(paths.TABLES, params.more.experiments)
    papers = read_papers(paths.PAPERS, paths.FIRST)
    rows = [judge_claim(claim, metrics) for claim in papers[paths.FIRST].claims]
    about = {"model": params.base.source, "profile": params.profile, "claims": len(rows)}
    counts, ours = {"count": verdict_counts(rows)}, [*map(_ours, rows)]
    write_metrics(paths.metrics("claims"), about | counts | claim_values(ours))
    write_text(paths.plot("claims.csv"), claims_csv(rows))
    for unit, text in series(ours).items():
        write_text(paths.plot(f"claims_{unit}.csv"), text)
    beside = judge_papers(papers, paths.FIRST, metrics, params.model_name)
    others = {slug: [*map(_ours, judged)] for slug, judged in beside.items() if slug != paths.FIRST}
    found = {slug: claim_values(values) for slug, values in others.items()}
    write_metrics(paths.metrics("papers"), {"model": params.model_name} | found)
    write_text(paths.plot("papers.csv"), papers_csv(beside, paths.FIRST))
    write_text(paths.plot("contradictions.csv"), questions_csv(questions(beside)))
    printed = Counter(row.verdict_run for row in rows if row.claim.source == "printed")
    words = ", ".join(f"{n} {v}" for v, n in printed.most_common())
    print(f"{printed.total()} printed claims on {params.base.source}: {words}")
    print(f"{sum(map(len, others.values()))} claims of {len(others)} other papers beside them")
