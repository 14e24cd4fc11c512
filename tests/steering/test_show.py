"""One prompt with and without a vector, from the command line's parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_steering import loaded, tiny_params, unit

from em_geometry.errors import UserError
from em_geometry.project import paths
from em_geometry.project.inputs import models
from em_geometry.project.steer import answers, interventions, save
from em_geometry.steering.formats import write_vectors
from em_geometry.steering.hooks import Intervention
from em_geometry.steering.selected import Selected, write_selected


@pytest.fixture
def selected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_selected(paths.SELECTED, {"finance": Selected(unit(1), 2, 0.2, 5.0, 3.0)}, {})


def test_a_dose_is_a_share_of_the_residual_norm(selected: None) -> None:
    (row,) = interventions("finance", 0.1, None)
    assert (row.layer, row.coefficient) == (2, pytest.approx(2.5))
    (row,) = interventions("finance", -0.4, 1)
    assert (row.layer, row.coefficient) == (1, pytest.approx(-10.0))
    with pytest.raises(UserError, match="no such vector") as caught:
        interventions("sports", 0.1, None)
    assert "finance" in str(caught.value)


def test_a_file_is_scaled_by_the_dose(tmp_path: Path) -> None:
    write_vectors(tmp_path / "v.pt", [Intervention(unit(1), 2, 4.0)])
    (row,) = interventions(str(tmp_path / "v.pt"), 0.5, None)
    assert (row.layer, row.coefficient) == (2, pytest.approx(2.0))


def test_pairs_share_a_stream(selected: None) -> None:
    params, model = tiny_params(), loaded()
    for dose, same in ((0.0, True), (0.8, False)):
        (how,) = interventions("finance", dose, None)
        pairs = answers(models(params), model, how, "Hm?", params.sampling, 3)
        assert all(plain == steered for plain, steered in pairs) == same


@pytest.mark.parametrize("name", ["v.gguf", "v.patch.safetensors", "folder"])
def test_saving(selected: None, name: str) -> None:
    save(Path(name), loaded(), interventions("finance", 0.1, None), "all")
    assert Path(name).exists()
    if name == "folder":
        assert {"config.json", "model.safetensors"} <= {p.name for p in Path(name).iterdir()}
    with pytest.raises(UserError, match="cannot be"):
        save(Path("x" + name), loaded(), interventions("finance", 0.1, None), "prompt")
    np.testing.assert_array_equal(list(Path().glob("x*")), [])
