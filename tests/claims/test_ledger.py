"""The ledger against its own numbers, claim by claim, and the family of unpublished cosines."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from em_geometry.claims.derived import RULES
from em_geometry.claims.ledger import read_claims
from em_geometry.claims.printed_gram import read_family, read_published_gram
from em_geometry.claims.published import (
    Audited,
    audit,
    calibration_of,
    claims_table,
    published_results,
)
from em_geometry.errors import UserError
from em_geometry.geometry.battery import battery
from em_geometry.io.results import as_estimate
from em_geometry.project import paths
from tests.conftest import ROOT

GRAM = read_published_gram(ROOT / paths.COSINES)
FAMILY = read_family(GRAM, ROOT / paths.FAMILY)
LEDGER = read_claims(ROOT / paths.CLAIMS)
BATTERY = battery(GRAM.fitted(), GRAM.clusters, RULES, names=GRAM.names)
MADE = {"geometry", "baseline", "transfer", "base_similarity", "calibration", "margins",
        "prediction"}  # fmt: skip
AUDITED = {a.claim.id: a for a in audit(LEDGER, GRAM, FAMILY)}


@pytest.mark.parametrize("audited", AUDITED.values(), ids=lambda a: a.claim.id)
def test_the_verdict_and_the_rounded_value_are_the_ledger_s(audited: Audited) -> None:
    assert audited.verdict == audited.claim.verdict
    intervals = audited.claim.intervals() if audited.parts else []
    assert not intervals or len(intervals) == len(audited.parts)
    for part, (low, high) in zip(audited.parts, intervals, strict=False):
        assert low <= part.value <= high


def test_the_ledger_is_whole() -> None:
    ids = [claim.id for claim in LEDGER]
    assert ids[:81] == [f"C{i:03d}" for i in range(1, 82)]
    ours = [claim.id for claim in LEDGER if claim.source == "ours"]
    assert ours == ["C008", "C011", "C019", "C049", "C065", "C074", "C075", "A05", "A15"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"Of its {len(LEDGER) - len(ours)} printed numbers and statements" in readme
    printed = [c for c in LEDGER if c.published and c.published.subgram and c.id[0] == "C"]
    assert len(printed) >= 25
    keys = BATTERY.values
    for claim in LEDGER:
        for metric in claim.metrics + claim.judged_metrics:
            file, _, key = metric.partition(":")
            assert file in MADE
            assert file != "geometry" or key in keys, metric


def test_all_members_keep_the_printed_cosines() -> None:
    for e, (i, j) in zip(GRAM.entries, zip(*np.triu_indices(6, 1), strict=True), strict=True):
        assert (FAMILY[:, i, j] >= e.low - 1e-6).all()
        assert (FAMILY[:, i, j] <= e.high + 1e-6).all()


def test_raw_norms_give_three_printed_numbers_together() -> None:
    """The hypothesis of C010, C038 and C039 is at least arithmetically possible."""
    norms = np.array([1.0, 1.0, 1.0, 0.6, 1.0, 1.77])
    found = battery(GRAM.fitted(), GRAM.clusters, RULES, names=GRAM.names, norms=norms).flat()
    assert found["cluster_angle.medical__persona_raw_deg"] == pytest.approx(100.2, abs=0.15)
    medical = found["cross_variance.medical_pc1_in_persona.uncentred_raw_pct"]
    persona = found["cross_variance.persona_pc1_in_medical.uncentred_raw_pct"]
    assert medical == pytest.approx(2.0, abs=0.1)
    assert persona == pytest.approx(1.6, abs=0.1)


def test_results_hold_values_with_their_ranges_and_the_verdicts() -> None:
    found = published_results(list(AUDITED.values()), GRAM, FAMILY)
    rows = {key: as_estimate(leaf) for key, leaf in found.items()}
    assert rows["cosine.medical__profanity"].value == pytest.approx(-0.235, abs=5e-4)
    assert rows["claims.C010.verdict"].status == "inconsistent"
    assert 101.6 < rows["cluster_angle.medical__persona_deg"].low < 101.7
    assert rows["summary.printed.reading.needs_models"].value == 28
    assert rows["summary.ours.arithmetic.inconsistent"].value == 2


def test_the_table_names_every_claim_and_marks_hypotheses() -> None:
    table = claims_table(list(AUDITED.values()))
    assert all(claim.id in table for claim in LEDGER)
    assert "hypotheses, not facts" in table


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "C001"},
        {"metric": "geometry"},
        {"metric": None},
        {"value": None},
        {"value": float("nan")},
        {"verdict": "true"},
        {"colour": "red"},
        {"published": {"fitted": True, "arithmetic": True}},
        {"published": {"arithmetic": True, "derived": "astrology"}},
        {"value": [1.0, 2.0]},
        {"unit": "furlong"},
        {"source": "theirs"},
        {"value": None, "reads": "words"},
    ],
)
def test_a_broken_ledger_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    ledger = yaml.safe_load((ROOT / paths.CLAIMS).read_text())
    ledger["claims"] = ledger["claims"][:3]
    ledger["claims"][1].update(changes)
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(ledger))
    with pytest.raises(UserError, match=re.escape("claims.yaml")):
        read_claims(path)


def test_a_subgram_needs_printed_cosines() -> None:
    with pytest.raises(UserError, match="not printed"):
        GRAM.roundings(["finance", "sports", "profanity"])


def test_edges_of_agreement() -> None:
    claim = next(c for c in LEDGER if c.id == "C057")
    assert claim.agrees(0, 3.1, 3.9) and not claim.agrees(0, 3.5, 4.5)
    claim = next(c for c in LEDGER if c.id == "C012")
    assert claim.agrees(0, 0.2365, 0.3) and not claim.agrees(0, 0.2366, 0.3)


def test_the_published_cosines_are_calibrated() -> None:
    found, sweep = calibration_of(GRAM, FAMILY)
    rows = {key.removeprefix("calibration."): as_estimate(leaf) for key, leaf in found.items()}
    key = "statistic.similarity.cross_mean"
    assert rows[key].low <= rows[key].value <= rows[key].high
    # no core is refuted if all 4096 dimensions count, and fits if fewer do
    assert rows[f"{key}.no_core_full_width.p"].value < 0.001
    assert rows[f"{key}.no_core_at_dimension_needed.p"].value > 0.05
    assert rows[f"{key}.partitions.smallest_p"].value == pytest.approx(1 / 15)
    assert 0 < (rows["statistic.core.share"].value or 0) < 0.2
    verdicts = {rows[f"power_full_width.test{i}.verdict_paper"].status for i in range(1, 6)}
    assert verdicts <= {"discriminates", "cannot discriminate", "reversed"}
    assert sweep.curves["share"][0] == 0.0


PROMISED = """
angle_deg.medical__profanity pca.centred.pc5_pct pca.uncentred.pc1_pct
subspace.finance__sports__medical.rank1_r_offdiag subspace.finance__sports__medical.rank2_r_full
residual.medical__profanity__malicious.mean_drop clusters.average.merge_last_low
clusters.average.cophenetic_r verdict.test1 verdict.count cluster_angle.risk__medical_deg
pc1_ablation.medical__medical_replication.after pc1_ablation.mean_abs_change
cross_variance.medical_pc1_in_persona.centred_pct
"""  # beside those that claims read


def test_users_and_the_ledger_can_rely_on_the_keys() -> None:
    found = BATTERY.flat()
    assert [key for key in PROMISED.split() if key not in found] == []
    assert sum(key.startswith("triangle.") and key.endswith("error_deg") for key in found) == 20
    assert sum(key.startswith("projection.") for key in found) == 15 * 6
