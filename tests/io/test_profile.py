"""Switching profiles never loses an edit."""

from __future__ import annotations

from pathlib import Path

import pytest

from em_geometry.errors import UserError
from em_geometry.project.profile import switch

SMOL = (Path(__file__).resolve().parents[2] / "profiles" / "smol.yaml").read_text(encoding="utf-8")
OTHER = SMOL.replace("profile: smol", "profile: other")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "profiles"
    folder.mkdir()
    (folder / "smol.yaml").write_text(SMOL, encoding="utf-8")
    (folder / "other.yaml").write_text(OTHER, encoding="utf-8")
    return folder


def test_switches_there_and_back(folder: Path) -> None:
    params = folder.parent / "params.yaml"
    for name, text in (("smol", SMOL), ("other", OTHER), ("smol", SMOL)):
        switch(name, params, folder)
        assert params.read_text(encoding="utf-8") == text


def test_refuses_to_drop_edits(folder: Path) -> None:
    params = folder.parent / "params.yaml"
    edited = SMOL.replace("seed: 0", "seed: 1")
    params.write_text(edited, encoding="utf-8")
    with pytest.raises(UserError, match="edits that are in no profile"):
        switch("other", params, folder)
    assert params.read_text(encoding="utf-8") == edited
    (folder / "mine.yaml").write_text(edited, encoding="utf-8")  # what the error advises
    switch("other", params, folder)
    assert params.read_text(encoding="utf-8") == OTHER


@pytest.mark.parametrize("name", ["smoll", "../params", ""])
def test_unknown_profile(folder: Path, name: str) -> None:
    with pytest.raises(UserError, match="other, smol"):
        switch(name, folder.parent / "params.yaml", folder)


def test_a_broken_profile_changes_nothing(folder: Path) -> None:
    params = folder.parent / "params.yaml"
    params.write_text(SMOL, encoding="utf-8")
    (folder / "other.yaml").write_text(OTHER + "extra: 1\n", encoding="utf-8")
    with pytest.raises(UserError, match="unknown key 'extra'"):
        switch("other", params, folder)
    assert params.read_text(encoding="utf-8") == SMOL
