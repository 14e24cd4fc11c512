"""Damage to cache and remote is seen and mended: `make verify-cache`."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.dvc.conftest import Place


def objects(folder: Path, *, folders: bool = False) -> list[Path]:
    found = sorted(p for p in (folder / "files/md5").rglob("*") if p.is_file())
    return [p for p in found if (p.suffix == ".dir") == folders]


def spoil(path: Path, data: bytes) -> None:
    """Other bytes in place, read-only as DVC leaves its cache."""
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)


def flipped(path: Path) -> bytes:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    return bytes(data)


def test_a_flipped_bit_in_the_read_only_cache_is_mended_from_the_remote(
    place: Place,
) -> None:
    victim = objects(place.folder / ".dvc/cache")[0]
    right = victim.read_bytes()
    spoil(victim, flipped(victim))
    name = victim.parent.name + victim.name
    assert "up to date" in place.dvc("status").stdout  # DVC itself does not notice
    done = place.verify()
    assert done.returncode == 1 and f"cache: damaged {name}" in done.stdout
    assert place.verify("--repair").returncode == 0
    assert victim.read_bytes() == right
    assert victim.stat().st_mode & 0o222 == 0
    done = place.verify()
    assert done.returncode == 0 and "cache: 6 sound objects" in done.stdout


def test_a_truncated_remote_object_is_mended_from_the_cache(place: Place) -> None:
    victim = objects(place.folder.parent / "remote")[1]
    right = victim.read_bytes()
    spoil(victim, right[:100])
    done = place.verify("--repair")
    assert done.returncode == 0 and "remote shared: damaged" in done.stdout
    assert victim.read_bytes() == right


def test_an_object_missing_inside_a_pushed_folder_is_seen_though_dvc_says_in_sync(
    place: Place,
) -> None:
    victim = objects(place.folder.parent / "remote")[2]
    victim.unlink()
    assert "in sync" in place.dvc("status", "--cloud").stdout
    done = place.verify()
    assert done.returncode == 1 and "remote shared: missing" in done.stdout
    assert place.verify("--repair").returncode == 0
    assert victim.is_file()


def test_what_has_no_sound_copy_is_dropped_and_made_again(place: Place) -> None:
    victim = objects(place.folder.parent / "remote")[3]
    spoil(victim, b"not it")
    spoil(place.folder / ".dvc/cache/files/md5" / victim.parent.name / victim.name, b"not it")
    before = place.contents()
    done = place.verify("--repair")
    assert done.returncode == 1 and "no sound copy" in done.stdout
    assert not objects(place.folder / ".dvc/cache", folders=True)
    shutil.rmtree(place.folder / "data")
    place.dvc("repro")
    place.dvc("push")
    assert place.contents() == before
    assert place.verify().returncode == 0


def test_a_push_killed_by_the_kernel_can_go_on(place: Place) -> None:
    remote = place.folder.parent / "remote"
    shutil.rmtree(remote)
    (place.folder / "params.yaml").write_text("size: 8000000\n")  # long enough to be hit
    place.dvc("repro", "-q")
    push = subprocess.Popen(
        [sys.executable, "-m", "dvc", "push", "-q", "-j", "1"],
        cwd=place.folder, env=place.environment, start_new_session=True,
    )  # fmt: skip
    end = time.monotonic() + 30
    while push.poll() is None and not list(remote.rglob("*.*")) and time.monotonic() < end:
        time.sleep(0.002)
    hit = push.poll() is None
    if hit:
        os.killpg(push.pid, signal.SIGKILL)
    push.wait()
    assert hit, "the push was over before it could be killed"
    assert place.verify("--repair").returncode in (0, 1)
    place.dvc("push", "-q")
    done = place.verify()
    assert done.returncode == 0, done.stdout
    assert "remote shared: 5 sound objects" in done.stdout


def test_an_unknown_remote_is_a_clear_error(place: Place) -> None:
    done = place.verify("--remote", "nowhere")
    assert done.returncode == 2
    assert "nowhere" in done.stdout and "Traceback" not in done.stdout
