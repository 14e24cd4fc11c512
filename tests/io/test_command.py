"""The command line: exit codes and messages, in processes of their own."""

import re
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from em_geometry.cli import COMMANDS, app
from tests.conftest import ROOT

HEAD = """
from em_geometry.project.command import application
from em_geometry.errors import UserError
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def body(code: str) -> subprocess.Popen[str]:
    return start("-c", f"{HEAD}def main():\n    {code}\napplication(main)()")


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=60)
    assert process.returncode is not None
    return process.returncode, errors


ERROR = """error: a [bad] file
  where:    x.csv
  found:    3
  expected: 4
  try:      fix it
"""


def test_success_is_silent_errors_have_all_parts_and_bugs_their_traceback() -> None:
    user_error = "UserError('a [bad] file', where='x.csv', found=3, expected=4, hint='fix it')"
    started = [body(code) for code in ("pass", f"raise {user_error}", "raise KeyError('ours')")]
    passed, refused, (status, errors) = map(finish, started)
    assert (passed, refused) == ((0, ""), (2, ERROR))
    assert status == 1
    assert "Traceback" in errors
    assert "KeyError: 'ours'" in errors


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_signals_end_cleanly(number: signal.Signals, status: int, word: str) -> None:
    process = body("import signal; print('ready', flush=True); signal.pause()")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    found, errors = finish(process)
    assert found == status
    assert word in errors
    assert "Traceback" not in errors


def test_the_list_of_commands_is_quick() -> None:
    """Under a second on an idle machine, because it imports none of them."""
    assert finish(start("-m", "em_geometry.cli", "--help"))[0] == 0
    loaded = "import sys, em_geometry.cli; print(*sys.modules, file=sys.stderr)"
    modules = set(finish(start("-c", loaded))[1].split())
    assert not modules & {"torch", "numpy", "polars", "transformers", "pydantic", "rich"}


def test_every_command_has_help_and_the_makefile_calls_them() -> None:
    for name in COMMANDS:
        result = CliRunner().invoke(app, [name, "--help"])
        assert result.exit_code == 0, name
        assert f" {name} [OPTIONS]" in result.output
        assert len(result.output.splitlines()[2]) > 20, f"{name} says nothing of itself"
    called = re.findall(r"@em-geometry ([a-z-]+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    with_files = {"batch", "chats", "export", "families", "new", "page", "screen"}
    assert set(called) == set(COMMANDS) - with_files


def test_an_unknown_command_names_the_nearest() -> None:
    result = CliRunner().invoke(app, ["verify"])
    assert result.exit_code == 2
    assert "verify-cache" in result.output
