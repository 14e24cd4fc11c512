"""Anybody's vectors go through the battery without a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_steering import add, unit

from stages.common.errors import UserError
from stages.steering.analyse import cli, folder_vectors
from stages.steering.formats import write_vectors
from stages.steering.hooks import Intervention


def test_a_folder_of_vectors(tmp_path: Path) -> None:
    near = [unit(i // 2) + 0.2 * unit(10 + i) for i in range(4)]
    kinds = ("safetensors", "pt", "gguf", "pt")
    for i, (vector, kind) in enumerate(zip(near, kinds, strict=True)):
        write_vectors(tmp_path / f"v{i}.{kind}", [Intervention(vector, 2, 1.0)])
    cli(tmp_path, ["a=v0,v1", "b=v2,v3"], 0)
    found = json.loads((tmp_path / "analysis.json").read_text())
    cosine = near[0] @ near[1] / np.linalg.norm(near[0]) / np.linalg.norm(near[1])
    assert found["cosine"]["v0__v1"] == pytest.approx(cosine, abs=1e-5)
    assert "power" in found
    assert "common core" in (tmp_path / "analysis.txt").read_text()


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least three"):
        folder_vectors(tmp_path)
    for i in range(3):
        write_vectors(tmp_path / f"v{i}.pt", [add(i, 1 + i // 2, 1.0)])
    with pytest.raises(UserError, match="across blocks"):
        folder_vectors(tmp_path)
