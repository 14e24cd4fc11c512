"""Baked models and exported vectors act like the hooks; what they cannot express is refused."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from test_hooks import PROMPTS, states_and_logits
from tiny_steering import WIDTH, ablate, add, loaded, random_llama, tiny_params, unit
from transformers import AutoModelForCausalLM

from em_geometry.errors import UserError
from em_geometry.project import paths
from em_geometry.project.steer import answers, interventions, save
from em_geometry.steering.conditions import Intervention, Selected, write_selected
from em_geometry.steering.formats import bake, biases, read_interventions, write_vectors

ADDS = [add(1, 1, 4.0), add(2, 3, -2.0), add(3, 1, 1.5)]


def hooked(rows: list[Intervention]) -> torch.Tensor:
    """Logits with several additions at once, by plain hooks."""
    model = random_llama()
    for row in rows:
        change = row.coefficient * torch.from_numpy(row.vector)
        model.model.layers[row.layer].register_forward_hook(
            lambda module, args, output, change=change: output + change
        )
    return states_and_logits(model, PROMPTS, None)[1]


def test_a_baked_checkpoint_equals_the_hooks(tmp_path: Path) -> None:
    model = random_llama()
    bake(model, biases(model, ADDS[:1]))  # a second time adds to the first
    bake(model, biases(model, ADDS[1:])).save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config.mlp_bias
    for found in (model, again):
        logits = states_and_logits(found, PROMPTS, None)[1]
        # pads differ (a bias acts on them too), real tokens must not see it
        expected = hooked(ADDS)
        torch.testing.assert_close(logits[:, -1], expected[:, -1], rtol=0, atol=1e-4)
    plain = states_and_logits(random_llama(), PROMPTS, None)[1]
    assert not torch.allclose(logits[:, -1], plain[:, -1], atol=0.1)


@pytest.mark.parametrize(
    ("rows", "positions", "reason"),
    [([add(1, 1, 1.0), ablate(2, 2)], "all", "ablation"), ([add(1, 1, 1.0)], "response", "only")],
)
def test_what_a_constant_cannot_do_is_refused(
    tmp_path: Path, rows: list[Intervention], positions: str, reason: str
) -> None:
    with pytest.raises(UserError, match="cannot be baked") as caught:
        biases(random_llama(), rows, positions)
    assert reason in str(caught.value)
    with pytest.raises(UserError, match="cannot be exported"):
        write_vectors(tmp_path / "x.pt", rows, positions)
    assert not list(tmp_path.iterdir())


def effect(rows: list[Intervention]) -> dict[int, np.ndarray]:
    return {row.layer: row.coefficient * row.vector for row in rows}


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "gguf"])
def test_round_trips(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"v.{suffix}"
    rows = [add(1, 2, 4.0), add(5, 2, -1.0)] if suffix == "pt" else ADDS
    write_vectors(path, rows)
    found, expected = effect(read_interventions(path)), biases(random_llama(), rows)
    assert found.keys() == expected.keys()
    for layer, change in expected.items():
        np.testing.assert_allclose(found[layer], change, rtol=1e-5, atol=1e-6)


def test_the_pt_file_is_what_lm_eval_reads(tmp_path: Path) -> None:
    write_vectors(tmp_path / "v.pt", [add(1, 2, 4.0)])
    config = torch.load(tmp_path / "v.pt", weights_only=True)
    assert list(config) == ["layers.2"]
    entry = config["layers.2"]
    assert set(entry) == {"action", "steering_coefficient", "steering_vector", "bias"}
    assert entry["action"] == "add"
    change = entry["steering_coefficient"] * entry["steering_vector"]
    torch.testing.assert_close(change, 4.0 * torch.from_numpy(unit(1)))
    assert "layers.2" in dict(random_llama().base_model.named_modules())


def test_the_gguf_file_is_a_control_vector(tmp_path: Path) -> None:
    write_vectors(tmp_path / "v.gguf", [add(1, 2, 4.0)])
    reader = gguf.GGUFReader(str(tmp_path / "v.gguf"))
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.model_hint").contents() == "llama"
    assert [t.name for t in reader.tensors] == ["direction.2"]


@pytest.mark.parametrize("shape", [(WIDTH,), (1, WIDTH)])
def test_a_bare_tensor_needs_its_block(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "v.pt"
    torch.save(torch.from_numpy(unit(1)).reshape(shape), path)
    (row,) = read_interventions(path, layer=3)
    assert (row.layer, row.coefficient) == (3, 1.0)
    np.testing.assert_array_equal(row.vector, unit(1))
    with pytest.raises(UserError, match="which block"):
        read_interventions(path)


@pytest.mark.parametrize("kind", ["gguf", "rows", "dictionary"])
def test_one_block_is_chosen_of_several(tmp_path: Path, kind: str) -> None:
    """repeng's GGUF of all blocks, a tensor [blocks, width], and tensors by block."""
    path = tmp_path / ("v.gguf" if kind == "gguf" else "v.pt")
    vectors = {layer: unit(layer) for layer in (1, 2, 3)}
    if kind == "gguf":
        write_vectors(path, [Intervention(v, layer, 1.0) for layer, v in vectors.items()])
    elif kind == "rows":
        torch.save(torch.from_numpy(np.stack([unit(0), *vectors.values()])), path)
    else:
        torch.save({layer: torch.from_numpy(v) for layer, v in vectors.items()}, path)
    (row,) = read_interventions(path, layer=2)
    assert row.layer == 2
    np.testing.assert_allclose(row.vector, unit(2), atol=1e-6)
    assert {row.layer for row in read_interventions(path)} >= {1, 2, 3}
    with pytest.raises(UserError, match="no vector of this block"):
        read_interventions(path, layer=9)


def test_files_that_cannot_be(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> Any:
            return print, ("loaded",)

    torch.save(Code(), tmp_path / "code.pt")
    torch.save({"layers.1": 3}, tmp_path / "other.pt")
    for name, message in [
        ("code.pt", "not a steering file"),
        ("other.pt", "not a steering file"),
        ("none.pt", "file not found"),
    ]:
        with pytest.raises(UserError, match=message):
            read_interventions(tmp_path / name)
    with pytest.raises(UserError, match="block 0"):
        write_vectors(tmp_path / "v.gguf", [add(1, 0, 1.0)])
    with pytest.raises(UserError, match="one block"):
        write_vectors(tmp_path / "v.pt", ADDS)
    with pytest.raises(UserError, match="unknown format"):
        write_vectors(tmp_path / "v.bin", ADDS)


@pytest.fixture
def selected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_selected(paths.SELECTED, {"finance": Selected(unit(1), 2, 0.2, 5.0, 3.0)}, {})


def test_a_dose_is_a_share_of_the_residual_norm_or_scales_a_file(selected: None) -> None:
    (row,) = interventions("finance", 0.1, None)
    assert (row.layer, row.coefficient) == (2, pytest.approx(2.5))
    (row,) = interventions("finance", -0.4, 1)
    assert (row.layer, row.coefficient) == (1, pytest.approx(-10.0))
    with pytest.raises(UserError, match="no such vector") as caught:
        interventions("sports", 0.1, None)
    assert "finance" in str(caught.value)
    write_vectors(Path("v.pt"), [Intervention(unit(1), 2, 4.0)])
    (row,) = interventions("v.pt", 0.5, None)  # a file is scaled by the dose
    assert (row.layer, row.coefficient) == (2, pytest.approx(2.0))


def test_pairs_share_a_stream(selected: None) -> None:
    params, model = tiny_params(), loaded()
    for dose, same in ((0.0, True), (0.8, False)):
        (how,) = interventions("finance", dose, None)
        pairs = answers(params, model, how, "Hm?", 3)
        assert all(plain == steered for plain, steered in pairs) == same


@pytest.mark.parametrize("name", ["v.gguf", "folder"])
def test_saving(selected: None, name: str) -> None:
    save(Path(name), loaded(), interventions("finance", 0.1, None), "all")
    assert Path(name).exists()
    if name == "folder":
        assert {"config.json", "model.safetensors"} <= {p.name for p in Path(name).iterdir()}
    with pytest.raises(UserError, match="cannot be"):
        save(Path("x" + name), loaded(), interventions("finance", 0.1, None), "prompt")
    np.testing.assert_array_equal(list(Path().glob("x*")), [])
