"""`em-geometry verdict`, and `readme`: the verdict of this run, also at the head of README.md."""

import textwrap
from pathlib import Path

from em_geometry.claims.ledger import read_claims
from em_geometry.claims.lookup import Metrics
from em_geometry.claims.verdict import judge_claim
from em_geometry.io.files import read_text, write_text
from em_geometry.project import paths
from em_geometry.project.profile import check_ran
from em_geometry.report.findings import Summary, summary
from em_geometry.report.tables import Results
from em_geometry.report.text import NO_BREAK
from em_geometry.settings import load_params

README = Path("README.md")
START, END = "<!-- verdict of this run -->\n", "<!-- end of verdict -->"


def measured() -> Summary:
    """The verdict of what has run in the working folder."""
    params = load_params(paths.PARAMS)
    metrics = Metrics.read(paths.TABLES, params.more.experiments)
    claims = [judge_claim(claim, metrics) for claim in read_claims(paths.CLAIMS)]
    model = params.model_name
    return summary(Results(metrics.stages, params), claims, model)


def lines(width: int | None = None) -> list[str]:
    """Its sentences, numbered; broken where they reach a width, where one is given."""
    check_ran(load_params(paths.PARAMS).profile)
    told = [f"{n}. {each}".replace(NO_BREAK, " ") for n, each in enumerate(measured().sentences, 1)]
    return [textwrap.fill(each, width, subsequent_indent="   ") if width else each for each in told]


def with_verdict(text: str) -> str:
    """README's text with this run's verdict between its two marks."""
    before, after, told = text.partition(START)[0], text.partition(END)[2], "\n".join(lines())
    return f"{before}{START}{told}\n{END}{after}"


def cli() -> None:
    """Write this run's verdict into README.md."""
    write_text(README, with_verdict(read_text(README)))


def verdict() -> None:
    """Print what the paper claims, what follows from it, and what this run shows."""
    print("\n".join(lines(100)))
