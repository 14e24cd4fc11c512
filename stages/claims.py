"""Stage `claims`: every claim of the paper beside what this run measured."""

from collections import Counter

from em_geometry.claims.ledger import read_claims
from em_geometry.claims.lookup import Metrics
from em_geometry.claims.verdict import claim_values, claims_csv, judge_claim, series, verdict_counts
from em_geometry.io.files import write_text
from em_geometry.io.results import write_metrics
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.settings import Params


@stage
def main(params: Params) -> None:
    metrics = Metrics.read(paths.TABLES)
    rows = [judge_claim(claim, metrics) for claim in read_claims(paths.CLAIMS)]
    ours = [(row.claim, [m.value for m in row.measured]) for row in rows]
    about = {"model": params.base.source, "profile": params.profile, "claims": len(rows)}
    counts = {"count": verdict_counts(rows)}
    write_metrics(paths.metrics("claims"), about | counts | claim_values(ours))
    write_text(paths.plot("claims.csv"), claims_csv(rows))
    for unit, text in series(ours).items():
        write_text(paths.plot(f"claims_{unit}.csv"), text)
    printed = Counter(row.verdict_run for row in rows if row.claim.source == "printed")
    words = ", ".join(f"{n} {v}" for v, n in printed.most_common())
    print(f"{printed.total()} printed claims on {params.base.source}: {words}")
