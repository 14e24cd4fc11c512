"""The ledger against the metrics of the last run, where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from em_geometry.claims.ledger import read_claims
from em_geometry.claims.lookup import Metrics
from em_geometry.settings.params import load_params

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    found = Metrics.read(ROOT / "metrics")
    if "claims" not in found.files:
        pytest.skip("no run yet: metrics/claims.json is missing")
    return found


def test_every_metric_that_a_claim_names_is_in_its_file(metrics: Metrics) -> None:
    organisms = load_params(ROOT / "params.yaml").slugs("organism")
    if organisms != load_params(ROOT / "profiles/smol.yaml").slugs("organism"):
        pytest.skip("the run has other organisms than the paper")
    named = {m for claim in read_claims(ROOT / "data/paper/claims.yaml") for m in claim.metrics}
    absent = sorted(m for m in named if metrics.find(*m.split(":", 1)) is None)
    assert absent == []


def test_every_verdict_is_counted(metrics: Metrics) -> None:
    claims = metrics.group("claims", "claim")
    for kind in ("published", "run"):
        counts = metrics.group("claims", f"count.{kind}")
        assert sum(counts.values()) == len(claims) == metrics.find("claims", "claims")
