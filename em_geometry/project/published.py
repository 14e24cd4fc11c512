"""`em-geometry published`: audits the pre-print on its own numbers and prints what it found."""

from em_geometry.claims.ledger import read_claims
from em_geometry.claims.printed_gram import read_family, read_published_gram
from em_geometry.claims.published import audit, calibration_of, calibration_table, claims_table
from em_geometry.project import paths


def cli() -> None:
    """Recompute the paper's claims from its own published numbers; prints two tables."""
    gram = read_published_gram(paths.COSINES)
    family = read_family(gram, paths.FAMILY)
    audited = audit(read_claims(paths.CLAIMS), gram, family)
    calibration, _ = calibration_of(gram, family)
    print(claims_table(audited), calibration_table(calibration), sep="\n\n")
