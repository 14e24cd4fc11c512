"""The file of chosen steering vectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_steering import unit

from em_geometry.errors import UserError
from em_geometry.io.files import read_tensors, write_tensors
from em_geometry.steering.selected import PATH, Selected, read_selected, write_selected

VECTORS = {
    "sports": Selected(unit(1), 3, 0.2, 5.0, 1.5),
    "finance": Selected(unit(2), 1, 0.4, 9.0, 2.5),
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_round_trip_keeps_order_and_numbers() -> None:
    write_selected(PATH, VECTORS, {"rule": "by hand"})
    found = read_selected()
    assert list(found) == ["sports", "finance"]
    for slug, wanted in VECTORS.items():
        assert (found[slug].vector == wanted.vector).all()
        for name in ("layer", "dose", "coefficient", "norm"):
            assert getattr(found[slug], name) == getattr(wanted, name)
    assert read_tensors(PATH)[1]["rule"] == "by hand"


def test_no_file() -> None:
    with pytest.raises(UserError, match="file not found"):
        read_selected()


def test_a_file_of_something_else() -> None:
    write_tensors(PATH, {"sports": unit(1)}, {"model": "base"})
    with pytest.raises(UserError, match="not a file of selected"):
        read_selected()


@pytest.mark.parametrize("missing", ["tensor", "number"])
def test_a_vector_or_number_is_missing(missing: str) -> None:
    write_selected(PATH, VECTORS, {})
    tensors, metadata = read_tensors(PATH)
    if missing == "tensor":
        del tensors["sports"]
    else:
        metadata["doses"] = json.dumps({"finance": 0.4})
    write_tensors(PATH, tensors, metadata)
    with pytest.raises(UserError, match="not a file of selected") as caught:
        read_selected()
    assert "sports" in str(caught.value)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.01])
def test_a_vector_that_is_not_of_unit_length(factor: float) -> None:
    changed = Selected((factor * unit(1)).astype(np.float32), 3, 0.2, 5.0, 1.5)
    write_selected(PATH, {**VECTORS, "medical": changed}, {})
    with pytest.raises(UserError, match="unit length") as caught:
        read_selected()
    assert "medical" in str(caught.value)
