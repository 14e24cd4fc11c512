"""`em-geometry readme`: the five answers of this run, as they stand at the head of README.md."""

from pathlib import Path

from em_geometry.claims.ledger import read_claims
from em_geometry.claims.lookup import Metrics
from em_geometry.claims.verdict import judge_claim
from em_geometry.io.files import write_text
from em_geometry.project import paths
from em_geometry.report.findings import answers
from em_geometry.report.tables import Results
from em_geometry.report.text import NO_BREAK
from em_geometry.settings import load_params

README = Path("README.md")
START, END = "<!-- answers of this run -->\n", "<!-- end of answers -->"


def with_answers(text: str) -> str:
    """README's text with this run's answers between its two marks."""
    params, metrics = load_params(paths.PARAMS), Metrics.read(paths.TABLES)
    claims = [judge_claim(claim, metrics) for claim in read_claims(paths.CLAIMS)]
    given = answers(
        Results(metrics.stages, params), claims, params.report.model or params.base.source
    )
    lines = "".join(f"- **{question}** {answer}\n" for question, answer in given)
    before, after = text.partition(START)[0], text.partition(END)[2]
    return f"{before}{START}{lines.replace(NO_BREAK, ' ')}{END}{after}"


def cli() -> None:
    """Write this run's answers into README.md."""
    write_text(README, with_answers(README.read_text(encoding="utf-8")))
