"""The command line of a stage: exit codes and messages, in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAD = "from em_geometry.project.command import run\nfrom em_geometry.errors import UserError\n"


def start(body: str) -> subprocess.Popen[str]:
    """A process that runs a command of this body."""
    code = HEAD + f"def main():\n    {body}\nrun(main)"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=30)
    assert process.returncode is not None
    return process.returncode, errors


def test_success_is_silent() -> None:
    assert finish(start("pass")) == (0, "")


def test_user_error_has_all_parts_and_no_traceback() -> None:
    body = "raise UserError('a [bad] file', where='x.csv', found=3, expected=4, hint='fix it')"
    status, errors = finish(start(body))
    assert status == 2
    assert errors.splitlines() == [
        "error: a [bad] file",
        "  where:    x.csv",
        "  found:    3",
        "  expected: 4",
        "  try:      fix it",
    ]


def test_a_bug_keeps_its_traceback() -> None:
    status, errors = finish(start("raise KeyError('ours')"))
    assert status == 1
    assert "Traceback" in errors
    assert "KeyError: 'ours'" in errors


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_signals_end_cleanly(number: signal.Signals, status: int, word: str) -> None:
    process = start(
        "import signal; print('ready', flush=True); signal.pause()  # until the test's signal"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    found, errors = finish(process)
    assert found == status
    assert word in errors
    assert "Traceback" not in errors


def test_a_stage_with_bad_params_exits_with_2(tmp_path: Path) -> None:
    params = tmp_path / "my params.yaml"
    params.write_text("profil: smol\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "stages.base_model", "--params", str(params)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "error: unknown key" in done.stderr or "Field required" in done.stderr
    assert str(params) in done.stderr
    assert "Traceback" not in done.stderr
