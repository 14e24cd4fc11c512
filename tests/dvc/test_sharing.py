"""Data shared through a remote: a fresh clone runs nothing, S3 gives back the bytes."""

import importlib.util
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dvc.conftest import Place

S3 = all(importlib.util.find_spec(name) for name in ("dvc_s3", "moto", "flask"))


def test_a_fresh_clone_with_a_full_remote_runs_nothing(place: Place) -> None:
    """It has no cache and no memory of the first place."""
    fresh = Place(place.folder.parent / "clone", place.home.parent / "other-home")
    place.run("git", "clone", "-q", str(place.folder), str(fresh.folder))
    done = fresh.dvc("repro", "--pull", "--allow-missing")
    assert "Running stage" not in done.stdout
    fresh.dvc("pull", "-q")
    assert fresh.contents() == place.contents()
    assert fresh.git("status", "--porcelain") == ""


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    """An S3 server on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    log = tmp_path / "moto.log"
    with log.open("w") as told, subprocess.Popen(command, stdout=told, stderr=told) as server:
        try:
            for _ in range(300):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            else:
                pytest.fail(log.read_text())
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


@pytest.mark.skipif(not S3, reason="S3 IS NOT TESTED: pip install -e '.[s3]' 'moto[server]'")
def test_an_s3_store_gives_back_the_bytes(
    place: Place, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    import boto3

    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="bucket")
    place.dvc("remote", "add", "-d", "team", "s3://bucket/em-geometry")
    place.dvc("remote", "modify", "team", "endpointurl", endpoint)
    place.dvc("remote", "modify", "team", "verify", "true")
    place.dvc("push")
    before = place.contents()
    shutil.rmtree(place.folder / ".dvc/cache")
    shutil.rmtree(place.folder / "data")
    place.dvc("pull")
    assert place.contents() == before
    checked = place.verify()
    assert checked.returncode == 0, checked.stdout
    assert "remote team: 5 sound objects" in checked.stdout
