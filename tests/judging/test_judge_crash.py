"""A judge that is killed at any moment, and a key that never leaves its header."""

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from em_geometry.io.journal import Journal
from em_geometry.judging.client import KEY_VARIABLE
from em_geometry.judging.openai_judge import OpenAIJudge
from tests.judging.double import KEY, Double
from tests.judging.test_openai_judge import check_complete, params, rows

ROOT = Path(__file__).parents[2]
WORKERS = 8
SCRIPT = f"""
import sys
from em_geometry.project.command import command
from em_geometry.io.journal import Journal
from em_geometry.judging.openai_judge import OpenAIJudge
from tests.judging.test_openai_judge import params, rows
from tests.judging.double import Double

@command
def main():
    with Journal("judge") as journal:
        slow = dict(concurrency={WORKERS}, retries=1, timeout_s=30.0)
        settings = params(Double(port=int(sys.argv[1])), **slow)
        print(OpenAIJudge(settings, journal).judge(rows(int(sys.argv[2]))))

main()
"""


def start(double: Double, n: int, folder: Path, **variables: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k != KEY_VARIABLE}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(double.port), str(n)],
        cwd=ROOT,
        env=environment | {"EMGEOMETRY_JOURNAL": str(folder)} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def journalled(folder: Path) -> set[str]:
    folder.mkdir(exist_ok=True)
    with closing(sqlite3.connect(folder / "judge.sqlite")) as connection:
        try:
            return {key for (key,) in connection.execute("SELECT key FROM units")}
        except sqlite3.OperationalError:  # killed before the table was made
            return set()


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.faults)])
def test_killed_and_started_again(
    kills: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost, and only requests that were in flight are sent twice."""
    n, rng = 60 * kills, random.Random(kills)
    monkeypatch.setenv("EMGEOMETRY_JOURNAL", str(tmp_path))
    with Double(delay_s=0.05) as double:
        key_of: dict[str, str] = {}
        for _ in range(kills):
            seen = sum(double.judged().values())
            there = journalled(tmp_path)
            before = double.judged()
            process = start(double, n, tmp_path)
            while sum(double.judged().values()) == seen and process.poll() is None:
                time.sleep(0.005)
            time.sleep(rng.uniform(0.0, 0.4))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            time.sleep(0.1)
            asked = double.judged() - before
            assert not [p for p in asked if key_of.get(p) in there], "asked again for a kept reply"
            with Journal("judge") as journal:
                judge = OpenAIJudge(params(double), journal)
                for row in rows(n):
                    for unit in judge.units(row):
                        key_of[judge.prompt(unit) + "#"] = unit.key
        finished = start(double, n, tmp_path)
        finished.communicate(timeout=60)
        assert finished.returncode == 0
        with Journal("judge") as journal:
            judge = OpenAIJudge(params(double), journal)
            sent = double.judged()
            check_complete(judge, rows(n), judge.judge(rows(n)))
            assert double.judged() == sent  # all of it from the journal
    assert set(sent) == set(key_of)
    assert set(key_of.values()) <= journalled(tmp_path)
    assert sum(sent.values()) - len(sent) <= kills * WORKERS


def test_terminated_ends_cleanly(tmp_path: Path) -> None:
    with Double(delay_s=0.05) as double:
        process = start(double, 200, tmp_path)
        while sum(double.judged().values()) < 10 and process.poll() is None:
            time.sleep(0.01)
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "finished units are kept" in err
    assert "Traceback" not in err
    assert len(journalled(tmp_path)) > 1


@pytest.mark.parametrize("ending", ["good", "rejected", "errors", "echo"])
def test_the_key_is_nowhere(ending: str, tmp_path: Path) -> None:
    """Not in what is printed (with all logging on), and not in any file."""
    with Double(key=KEY) as double:
        if ending == "errors":
            double.always, double.said = 400, f"your key {KEY} is odd"
        if ending == "echo":
            double.always, double.said = 500, f"Authorization: Bearer {KEY}"
        sent = KEY if ending != "rejected" else KEY.replace("5f2c", "0000")
        log = {"OPENAI_LOG": "debug", "PYTHONASYNCIODEBUG": "1", KEY_VARIABLE: sent}
        out, err = start(double, 3, tmp_path, **log).communicate(timeout=60)
    assert "canary" not in out + err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(b"canary" in path.read_bytes() for path in files)
    if ending == "rejected":
        assert KEY_VARIABLE in err
        assert "Traceback" not in err
    if ending == "good":
        assert re.search(r"'aligned': 'ok'", out)
