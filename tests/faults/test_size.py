"""A million units: the journal at that size, measured in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

N = 1_000_000
JOURNAL = f"""
import hashlib, json, time
from em_geometry.io.journal import Journal
figures, clock = {{}}, [0.0]
def lap(name):
    now = time.perf_counter()
    figures[name], clock[0] = round(now - clock[0], 3), now
keys = [hashlib.sha256(str(i).encode()).hexdigest() for i in range({N})]
text = "An answer of some thirty tokens is about as long as this one here. " * 2
batches = [keys[s : s + 64] for s in range(0, {N}, 64)]
lap("before")
with Journal("size") as journal:
    for batch in batches:
        journal.put({{key: [text + key, 31, "stop"] for key in batch}})
lap("append_s")
with Journal("size") as journal:
    found = journal.get(keys[:: {N} // 64])
    lap("open_s")
    assert len(found) >= 64 and all(v[0] == text + k for k, v in found.items())
    assert len(journal.get(keys)) == {N}
print(json.dumps(figures))
"""


@pytest.mark.faults
def test_a_journal_of_a_million_units(tmp_path: Path) -> None:
    """Opened, and a batch looked up, in 5 s; 5,000 appends a second in batches of 64."""
    done = subprocess.run(
        [sys.executable, "-c", JOURNAL],
        env=os.environ | {"PYTHONPATH": str(ROOT), "EMGEOMETRY_JOURNAL": str(tmp_path)},
        text=True,
        capture_output=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    figures: dict[str, float] = json.loads(done.stdout)
    print(figures)  # shown with -s and where the test fails
    assert figures["open_s"] < 5
    assert N / figures["append_s"] > 5_000
