"""Pinned packages against an advisory service: affected, sound, and out of reach."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from stages.common.audit import LOCK, main, read_lock
from stages.common.errors import UserError

ROOT = Path(__file__).parents[2]


@contextmanager
def service(answer: Any) -> Iterator[tuple[str, list[Any]]]:
    """An advisory service on loopback: its address, and what it was asked."""
    asked: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.lock"
    path.write_text("# why\nsound[extra]==1.2\n\nbad_one==0.1+cpu ; python_version > '3'\n")
    return path


def test_an_affected_package_is_named(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with service({"results": [{}, {"vulns": [{"id": "PYSEC-2"}, {"id": "GHSA-1"}]}]}) as (
        url,
        asked,
    ):
        assert not main(lock, url)
    ((query,),) = (a["queries"][1:] for a in asked)
    assert query == {"package": {"ecosystem": "PyPI", "name": "bad_one"}, "version": "0.1"}
    said = capsys.readouterr().out
    assert "bad_one==0.1: https://osv.dev/GHSA-1, https://osv.dev/PYSEC-2" in said
    assert "sound" not in said
    assert "2 packages checked, 1 with advisories" in said


def test_a_sound_lock(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with service({"results": [{}, {"vulns": None}]}) as (url, _):
        assert main(lock, url)
    assert "2 packages checked, 0 with advisories" in capsys.readouterr().out


@pytest.mark.parametrize("answer", [b"<html>", {}, [], {"results": [{}]}, {"results": [1, 2]}])
def test_a_service_that_says_something_else(
    lock: Path, answer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with service(answer) as (url, _):
        assert main(lock, url)
    assert f"not checked: {url} cannot be asked" in capsys.readouterr().out


def test_a_service_out_of_reach_does_not_fail_a_build(
    lock: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(lock, "http://127.0.0.1:9")
    assert "not checked" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "torch>=2\n", "-e .\n", "torch @ https://host/x\n"])
def test_a_lock_that_pins_nothing(lock: Path, text: str) -> None:
    lock.write_text(text)
    with pytest.raises(UserError, match="lock"):
        main(lock, "http://127.0.0.1:9")


def test_our_lock_is_all_pins() -> None:
    pins = dict(read_lock(ROOT / LOCK))
    assert pins["torch"].startswith("2.")
    assert len(pins) > 100
