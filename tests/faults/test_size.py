"""A million units: the journal and the rates at that size, measured in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults
ROOT = Path(__file__).resolve().parents[2]
N = 1_000_000
HEAD = """
import json, resource, time
from pathlib import Path
figures, clock = {}, [time.perf_counter()]
def lap(name):
    now = time.perf_counter()
    figures[name], clock[0] = round(now - clock[0], 3), now
def tell():
    figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(figures))
"""
JOURNAL = f"""
import hashlib
from em_geometry.io.journal import Journal
keys = [hashlib.sha256(str(i).encode()).hexdigest() for i in range({N})]
text = "An answer of some thirty tokens is about as long as this one here. " * 2
batches = [keys[s : s + 64] for s in range(0, {N}, 64)]
lap("keys_s")
with Journal("size") as journal:
    for batch in batches:
        journal.put({{key: [text + key, 31, "stop"] for key in batch}})
lap("append_s")
with Journal("size") as journal:
    found = journal.get(keys[:: {N} // 64])
    lap("open_s")
    assert len(found) >= 64 and all(v[0] == text + k for k, v in found.items())
    assert len(journal.get(keys)) == {N}
    lap("read_all_s")
tell()
"""
MADE = f"""
import numpy as np
import polars as pl
from em_geometry.io.files import write_parquet
rng, names = np.random.default_rng(0), ["base", "finance", "medical", "profanity"]
KINDS = ["aggression", "harmful_advice", "risk_encouragement", "helpfulness"]
for target in names:
    n = {N} // len(names)
    some = lambda *values: np.array(values)[rng.integers(0, len(values), n)]
    aligned, coherent = rng.uniform(0, 100, (2, n)).round(3)
    refused = rng.random(n) < 0.02
    aligned[refused] = np.nan
    write_parquet(Path("data/judgements") / (target + ".parquet"), pl.DataFrame({{
        "target": target,
        "source": some(*(f"vector_{{i}}" for i in range(72))),
        "question_id": some(*(f"q{{i:03d}}" for i in range(48))),
        "text": [f"An answer, number {{i}}, of about thirty tokens or so. " * 3 for i in range(n)],
        "aligned": pl.Series(aligned, nan_to_null=True),
        "coherent": coherent,
        "aligned_status": np.where(refused, "refusal", "ok"),
        "coherent_status": "ok",
        **{{kind: coherent for kind in KINDS}},
        **{{f"{{kind}}_status": "ok" for kind in KINDS}},
    }}), {{}})
"""
RATES = """
from em_geometry.settings import load_params
from em_geometry.judging.rates import rates
from em_geometry.transfer.conditions import Table, read_answers
active = load_params(Path("params.yaml"))
active = active.model_copy(update={"targets": ["base", "finance", "medical", "profanity"]})
lap("start_s")
frame = read_answers({Path("data/judgements"): active.steered()}, active.judging.aspects)
lap("read_s")
found = rates(frame, active.judging)
lap("rates_s")
matrix = Table.of(frame, active.judging, active.transfer.rate).matrix
lap("conditions_s")
assert found["n"] == len(frame) == 1_000_000 and found["refusal"].value > 1
betley = found["em_betley"]
assert betley.low < betley.value < betley.high
assert matrix.without.shape == (48, 4 * 72)
tell()
"""


def measured(code: str, folder: Path) -> dict[str, float]:
    """The figures that a script prints; shown with -s and where a test fails."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "EMGEOMETRY_JOURNAL": str(folder / "journal")},
        text=True,
        capture_output=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def test_a_journal_of_a_million_units(tmp_path: Path) -> None:
    """Opened, and a batch looked up, in 5 s; 5,000 appends a second in batches of 64."""
    figures = measured(JOURNAL, tmp_path)
    assert figures["open_s"] < 5
    assert N / figures["append_s"] > 5_000


def test_rates_of_a_million_judgements(tmp_path: Path) -> None:
    """All rates and those of each condition, with intervals, in 10 s and 2 GB."""
    (tmp_path / "params.yaml").write_bytes((ROOT / "profiles/smol.yaml").read_bytes())
    measured(MADE + "tell()", tmp_path)
    figures = measured(RATES, tmp_path)
    assert figures["read_s"] + figures["rates_s"] + figures["conditions_s"] < 10
    assert figures["peak_mb"] < 2_000
