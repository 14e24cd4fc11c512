"""A long stage that is killed, terminated and interrupted, on the tiny model: the short form."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from em_geometry.settings import Params

ROOT = Path(__file__).resolve().parents[2]
# The stage's own command line, with a line for every batch.
STAGE = """
import em_geometry.progress
em_geometry.progress.LINE_SECONDS = 0.0
from em_geometry.project.command import command_line
from stages.baseline_responses import main
command_line(main)()
"""
OUT = Path("data/baseline/responses")
JOURNAL = Path(".journal/baseline-base.sqlite")


def start(**variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", STAGE],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def bytes_of_outs() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(OUT.iterdir())}


def units() -> int:
    """Units in the journal, which must be whole."""
    with sqlite3.connect(JOURNAL) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(database.execute("SELECT count(*) FROM units").fetchone()[0])


@pytest.mark.slow
def test_a_stage_goes_on_after_kills_and_signals(tiny_params: Params) -> None:
    """SIGKILL, SIGTERM and Ctrl-C in turn, each a few batches further on."""
    params = tiny_params.model_dump(mode="json")
    params["targets"], params["organisms"] = ["base"], {}
    params["baseline"]["samples"] = 24
    params["questions"]["file"] = str(ROOT / params["questions"]["file"])
    params["sampling"] |= {"batch_size": 8, "max_new_tokens": 48}
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    whole = start(EMGEOMETRY_JOURNAL=str(Path("other").absolute()))
    _, log = whole.communicate(timeout=120)
    assert whole.returncode == 0, log
    undisturbed = bytes_of_outs()
    batches = len(re.findall(r"^baseline base: .* units,", log, re.MULTILINE))
    assert batches >= 20
    for path in OUT.iterdir():
        path.unlink()
    kept = 0
    for number, status, word in (
        (signal.SIGKILL, -9, ""),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGINT, 130, "interrupted"),
    ):
        process = start()
        assert process.stderr is not None
        fresh = 0
        for line in process.stderr:
            if kept and not fresh and "already done" in line:
                assert int(line.split(": ")[1].split()[0]) == kept
            fresh += " units," in line
            if fresh == 3:
                os.killpg(process.pid, number)
                break
        rest = process.stderr.read()
        assert process.wait(timeout=60) == status, rest
        assert word in rest
        assert "Traceback" not in rest
        assert not OUT.exists() or not list(OUT.iterdir())
        assert units() >= kept + 3 * 8
        kept = units()
    last = start()
    _, log = last.communicate(timeout=120)
    assert last.returncode == 0, log
    assert re.search(rf": {kept} of \d+ units already done", log)
    assert bytes_of_outs() == undisturbed
