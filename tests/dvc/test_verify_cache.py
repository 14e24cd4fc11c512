"""Damage to cache and remote is seen and mended: `make verify-cache`."""

import shutil
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


def test_what_dvc_itself_does_not_notice_is_seen_and_mended(place: Place) -> None:
    """A flipped bit in the read-only cache; in the remote a truncated object, and a missing one."""
    remote, cache = place.folder.parent / "remote", place.folder / ".dvc/cache"
    first, truncated, missing = objects(remote)[:3]
    flipped = cache / first.relative_to(remote)
    right = {path: path.read_bytes() for path in (flipped, truncated, missing)}
    data = right[flipped]
    spoil(flipped, data[:-1] + bytes([data[-1] ^ 1]))
    spoil(truncated, right[truncated][:100])
    missing.unlink()
    assert "up to date" in place.dvc("status").stdout
    assert "in sync" in place.dvc("status", "--cloud").stdout
    done = place.verify()
    assert done.returncode == 1
    for damage, path in (
        ("cache: damaged", flipped),
        ("remote shared: damaged", truncated),
        ("remote shared: missing", missing),
    ):
        assert f"{damage} {path.parent.name}{path.name}" in done.stdout
    assert place.verify("--repair").returncode == 0
    assert {path: path.read_bytes() for path in right} == right
    assert flipped.stat().st_mode & 0o222 == 0
    done = place.verify()
    assert done.returncode == 0 and "cache: 6 sound objects" in done.stdout


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


def test_an_unknown_remote_is_a_clear_error(place: Place) -> None:
    done = place.verify("--remote", "nowhere")
    assert done.returncode == 2
    assert "nowhere" in done.stdout and "Traceback" not in done.stdout
