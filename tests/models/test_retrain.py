"""Trainings that are done again: what names them in the journal, and that none is done twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from em_geometry.hashing import file_sha256, value_sha256
from em_geometry.models.load import Models
from em_geometry.models.train import retrained
from em_geometry.settings import Params


def test_finished_trainings_are_found_by_all_that_decides_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smol: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    params = Params.model_validate(smol)
    data = tmp_path / "texts.jsonl"
    data.write_text("texts\n", encoding="utf-8")
    medical = params.organisms["medical"].model_copy(update={"data": str(data)})
    monkeypatch.setattr(Models, "record", lambda _: {"sha256": "base"})
    models = Models(params.run, params.base, tmp_path, {"medical": medical}, tmp_path)
    done: list[tuple[str, int, str]] = []

    def train(slug: str, which: int, key: str) -> int:
        done.append((slug, which, key))
        return which * 2

    def run(units: list[tuple[str, int]], block: int = 3) -> dict[tuple[str, int], int]:
        blocks = {"medical": block}
        return retrained("again", models, params.recipes, units, blocks, {"code": 2}, train)

    assert run([("medical", 5)]) == {("medical", 5): 10}
    fixed = {
        "code": 2,
        "base": "base",
        "run": params.run.model_dump(),
        "system_prompt": params.base.system_prompt,
    }
    recipe = params.recipes[medical.lab].model_dump()
    texts = [file_sha256(data), medical.max_examples]
    assert done[0][2] == value_sha256([fixed, ["medical", 5], recipe, texts, 3])
    assert run([("medical", 5), ("medical", 6)])["medical", 6] == 12
    assert [which for _, which, _ in done] == [5, 6]
    run([("medical", 5)], block=4)
    data.write_text("other texts\n", encoding="utf-8")
    run([("medical", 5)])
    assert len(done) == 4
