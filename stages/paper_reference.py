"""Stage `paper_reference`: the battery on the published cosines, and every claim recomputed."""

from em_geometry.claims.ledger import read_claims
from em_geometry.claims.printed_gram import read_family, read_published_gram
from em_geometry.claims.published import HEADLINE, audit, calibration_of, published_results
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.outputs import put_plot, put_results


@stage
def main() -> None:
    gram = read_published_gram(paths.COSINES)
    family = read_family(gram, paths.FAMILY)
    audited = audit(read_claims(paths.CLAIMS), gram, family)
    calibration, sweep = calibration_of(gram, family)
    put_results("published", published_results(audited, gram, family) | calibration, HEADLINE)
    put_plot("power_published", *sweep.table())
