"""Stages run in this process as their command line runs them, and what a refusal must look like."""

import importlib
import signal
import traceback
from pathlib import Path

from typer.testing import CliRunner, Result

from em_geometry.cli import app
from em_geometry.project.command import command_line

JOURNAL = ".journal"
COMMAND = "em-geometry"


def call(module: str, *arguments: str) -> Result:
    """`python -m <module> <arguments>`, or `em-geometry <arguments>`: output and exit status."""
    usual = signal.getsignal(signal.SIGTERM)
    shown = app if module == COMMAND else command_line(importlib.import_module(module).main)
    try:
        return CliRunner().invoke(shown, arguments)
    finally:
        signal.signal(signal.SIGTERM, usual)


def finished(module: str, *arguments: str) -> Result:
    result = call(module, *arguments)
    assert result.exit_code == 0, f"{module}: {result.output}\n{_trace(result)}"
    return result


def refused(module: str, *arguments: str) -> str:
    """A run that must end in a UserError; returns the message.

    Status 2, no traceback; the message says what and where, what was found, and what was expected
    or what to do; it is short; and no file of the working folder has changed.
    """
    before = contents()
    result = call(module, *arguments)
    assert result.exit_code == 2, f"{module}: {result.output}\n{_trace(result)}"
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    _, error, text = result.stderr.rpartition("error: ")
    assert error, f"no UserError: {result.output}"
    assert "\n  where:" in text and "\n  found:" in text, text
    assert "\n  expected:" in text or "\n  try:" in text, text
    assert len(text) < 6000, f"a message of {len(text)} characters"
    after = contents()
    assert {p for p in before | after if before.get(p) != after.get(p)} == set()
    return error + text


def contents() -> dict[str, bytes]:
    """Every file under the working folder but the journal."""
    files = (path for path in Path().rglob("*") if path.is_file())
    return {str(p): p.read_bytes() for p in files if p.parts[0] != JOURNAL}


def _trace(result: Result) -> str:
    return "".join(traceback.format_exception(*result.exc_info)) if result.exc_info else ""
