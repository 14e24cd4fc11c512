"""Baked models and exported vectors act like the hooks; what they cannot express is refused."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_hooks import PROMPTS, states_and_logits
from tiny_steering import WIDTH, ablate, add, loaded, random_llama, tiny_params, unit
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from em_geometry.cli import app
from em_geometry.errors import UserError
from em_geometry.io.files import check_vector
from em_geometry.project import paths
from em_geometry.project.steer import answers, chosen, show
from em_geometry.steering.conditions import Intervention, Selected, write_selected
from em_geometry.steering.formats import bake, biases, read_held, read_vectors, write_vectors
from tests.conftest import ROOT


def intervention(
    vector: str, dose: float, layer: int | None, name: str | None = None, blocks: int | None = None
) -> Intervention:
    """What a dose of a named vector does where the residual norm, if none is recorded, is 1."""
    which = chosen(vector, layer, name)
    return which.acting(dose, which.residual or 1.0, which.held.acts_at(Path(vector), blocks))


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


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "gguf"])
def test_round_trips(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"v.{suffix}"
    rows = [add(1, 2, 4.0), add(5, 2, -1.0)] if suffix == "pt" else ADDS
    write_vectors(path, rows)
    held, expected = read_held(path), biases(random_llama(), rows)
    assert {each.block for each in held} == expected.keys()
    for each in held:
        change = expected[each.block or 0]
        np.testing.assert_allclose(each.coefficient * each.vector, change, rtol=1e-5, atol=1e-6)


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


SHAPES = {"vector": (WIDTH,), "one row": (1, WIDTH)}
KEPT = (".safetensors", ".pt", ".PTH", ".npy", ".npz")


def kept(path: Path, tensors: dict[Any, Any]) -> Path:
    """A file as other tools write it; a tensor without a name where the format allows it."""
    bare = tensors.get("vector")
    if path.suffix == ".safetensors":
        save_file({str(name): torch.as_tensor(t).detach() for name, t in tensors.items()}, path)
    elif path.suffix == ".gguf":
        write_vectors(path, [Intervention(t, block, 1.0) for block, t in tensors.items()])
    elif path.suffix == ".npy":
        np.save(path, bare)
    elif path.suffix == ".npz":
        np.savez(path, **{str(name): t for name, t in tensors.items()})
    else:
        torch.save(tensors if bare is None else torch.as_tensor(bare), path)
    return path


@pytest.mark.parametrize("suffix", KEPT)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_bare_tensor_acts_where_the_user_says(
    tmp_path: Path, suffix: str, shape: tuple[int, ...]
) -> None:
    path = kept(tmp_path / f"v{suffix}", {"vector": unit(1).reshape(shape)})
    how = intervention(str(path), 0.5, 3)
    assert (how.layer, how.coefficient) == (3, 0.5)
    np.testing.assert_allclose(how.vector, unit(1), rtol=1e-5)
    with pytest.raises(UserError, match="which block"):
        intervention(str(path), 0.5, None)


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("v.gguf", {b: unit(b) for b in (1, 2, 3)}),  # repeng's, which has no block 0
        ("v.pt", {b: torch.from_numpy(unit(b)) for b in range(4)}),
        ("v.pt", {f"layer_{b}": torch.nn.Parameter(torch.from_numpy(unit(b))) for b in range(4)}),
        ("v.pt", [torch.from_numpy(unit(b)) for b in range(4)]),
        ("v.npz", {str(b): unit(b) for b in range(4)}),
        ("v.safetensors", {f"blocks.{b}.hook_resid_post": unit(b)[None] for b in range(4)}),
        ("v.npy", {"vector": np.stack([unit(b) for b in range(4)])}),
        ("v.pt", {"vector": np.stack([unit(b) for b in range(4)])}),
        ("v.safetensors", {"any": np.stack([unit(b) for b in range(4)])}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_block_is_chosen_of_several(tmp_path: Path, name: str, tensors: Any) -> None:
    path = tmp_path / name
    if isinstance(tensors, list):
        torch.save(tensors, path)
    else:
        kept(path, tensors)
    how = intervention(str(path), 1.0, 2, blocks=4)
    assert how.layer == 2
    np.testing.assert_allclose(how.vector, unit(2), atol=1e-6)
    with pytest.raises(UserError, match="which of these") as caught:
        intervention(str(path), 1.0, None)
    assert "--layer" in str(caught.value)
    with pytest.raises(UserError, match="no such vector") as caught:
        intervention(str(path), 1.0, 9)
    assert "block 9" in str(caught.value)


def test_a_row_more_than_blocks_is_of_the_embeddings(tmp_path: Path) -> None:
    """persona-vectors keeps the hidden states: row n is what leaves block n - 1."""
    path, rows = tmp_path / "v.pt", [torch.from_numpy(unit(r)) for r in range(5)]
    for held in (torch.stack(rows), rows, tuple(rows)):
        torch.save(held, path)
        how = intervention(str(path), 1.0, 2, blocks=4)
        assert how.layer == 1
        np.testing.assert_allclose(how.vector, unit(2), rtol=1e-5)
    for row, blocks in ((0, 4), (2, 9), (2, 3)):
        with pytest.raises(UserError, match="of no block") as caught:
            intervention(str(path), 1.0, row, blocks=blocks)
        assert f"row {row} of 5" in str(caught.value)


def test_a_number_without_a_word_for_blocks_is_part_of_the_name(tmp_path: Path) -> None:
    names = ["qwen2.5", "llama3.1", "evil_v2.0", "exp.12", "a.layer.3", "Layers_3", "resid.3", "3"]
    path = kept(tmp_path / "v.safetensors", {name: unit(i) for i, name in enumerate(names)})
    blocks = {each.name: each.block for each in read_held(path)}
    assert blocks == {name: 3 if name.endswith("3") else None for name in names}
    assert intervention(str(path), 1.0, 2, "qwen2.5").layer == 2
    with pytest.raises(UserError, match="which block"):
        intervention(str(path), 1.0, None, "exp.12")


@pytest.mark.parametrize("name", ["blocks.{}.hook_resid_pre", "resid_pre.{}"])
def test_what_enters_a_block_leaves_the_one_before(tmp_path: Path, name: str) -> None:
    path = str(kept(tmp_path / "v.safetensors", {name.format(3): unit(1)}))
    assert intervention(path, 1.0, None).layer == intervention(path, 1.0, 2).layer == 2
    with pytest.raises(UserError, match="no such vector") as caught:
        intervention(path, 1.0, 3)
    assert "leaves block 2" in str(caught.value)
    path = str(kept(tmp_path / "v.safetensors", {name.format(0): unit(1)}))
    with pytest.raises(UserError, match="enters block 0"):
        intervention(path, 1.0, None)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64", "float8_e4m3fn"])
def test_numbers_of_any_precision(tmp_path: Path, kind: str) -> None:
    tensors = {"layers.2": torch.arange(WIDTH).to(getattr(torch, kind))}
    for path in (tmp_path / "v.safetensors", tmp_path / "v.pt"):
        save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
        held = chosen(str(path)).held
        assert held.vector.dtype == np.float32
        np.testing.assert_allclose(held.vector, tensors["layers.2"].float())


def test_named_tensors_and_the_file_of_the_sweep(tmp_path: Path) -> None:
    path = kept(tmp_path / "v.npz", {"calm": unit(1), "rude_2": unit(2)})
    found = intervention(str(path), 1.0, 3, "rude_2").vector
    np.testing.assert_allclose(found, unit(2), rtol=1e-5)
    known = {n: Selected(unit(i), 2, 0.2, 5.0, 3.0) for i, n in enumerate(("calm", "rude"))}
    write_selected(tmp_path / "selected.safetensors", known, {})
    path = tmp_path / "selected.safetensors"
    how = intervention(str(path), 0.1, None, "rude")
    assert (how.layer, how.coefficient) == (2, pytest.approx(2.5))  # a share of the residual norm
    for name in (None, "meek"):
        with pytest.raises(UserError, match="no such vector") as caught:
            intervention(str(path), 0.1, None, name)
        assert "calm, rude" in str(caught.value)


def test_files_that_cannot_be(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> Any:
            return print, ("loaded",)

    torch.save(Code(), tmp_path / "code.pt")
    torch.save({"layers.1": 3}, tmp_path / "other.pt")
    torch.save({"vector": torch.ones(2), "model": "a name"}, tmp_path / "words.pt")
    np.save(tmp_path / "objects.npy", np.array([Code()]))
    np.save(tmp_path / "complex.npy", np.array([1j]))
    writer = gguf.GGUFWriter(str(tmp_path / "model.gguf"), "llama")
    writer.add_tensor("token_embd.weight", np.ones(2, np.float32))
    for write in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{write}_to_file")()
    writer.close()
    (tmp_path / "pointer.gguf").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    for name, message in [
        ("code.pt", "not a steering file"),
        ("other.pt", "not a steering file"),
        ("objects.npy", "not a steering file"),
        ("complex.npy", "not a steering file"),
        ("words.pt", "not a steering file"),
        ("model.gguf", "not a steering file"),
        ("pointer.gguf", "Git LFS"),
        ("none.pt", "file not found"),
    ]:
        with pytest.raises(UserError, match=message):
            read_vectors(tmp_path / name)
    with pytest.raises(UserError, match="block 0"):
        write_vectors(tmp_path / "v.gguf", [add(1, 0, 1.0)])
    with pytest.raises(UserError, match="one block"):
        write_vectors(tmp_path / "v.pt", ADDS)
    with pytest.raises(UserError, match="unknown format"):
        write_vectors(tmp_path / "v.bin", ADDS)


@pytest.mark.parametrize(
    ("held", "says"),
    [
        ({"directions": {1: unit(1)}}, "numpy arrays"),  # as repeng's object has them
        ({"directions": {1: torch.ones(2)}}, "a dictionary in directions: one too deep"),
        ({"layers.1": {"action": "clamp"}}, "layers.1: clamp, not add"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear beside"),
        (None, "bytes that torch cannot read"),
    ],
    ids=["numpy", "deep", "action", "code", "damaged"],
)
def test_what_a_torch_file_holds_is_said_in_plain_words(
    tmp_path: Path, held: Any, says: str
) -> None:
    path = tmp_path / "v.pt"
    path.write_bytes(b"123") if held is None else torch.save(held, path)
    with pytest.raises(UserError, match="not a steering file") as caught:
        read_vectors(path)
    assert says in str(caught.value) and "\x1b" not in str(caught.value)
    assert "save the tensors alone" in str(caught.value)


@pytest.fixture
def selected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_selected(paths.SELECTED, {"finance": Selected(unit(1), 2, 0.2, 5.0, 3.0)}, {})


def test_a_dose_is_a_share_of_the_residual_norm(selected: None) -> None:
    row = intervention("finance", 0.1, None)
    assert (row.layer, row.coefficient) == (2, pytest.approx(2.5))
    assert chosen("finance", 1).residual is None  # at another block it is to be measured
    for name in (None, "finance"):  # --name is of files
        with pytest.raises(UserError, match="no such vector") as caught:
            chosen("sports", None, name)
        assert "finance" in str(caught.value)
    for coefficient in (4.0, -4.0):  # of a file the direction counts, not the length
        write_vectors(Path("v.pt"), [Intervention(unit(1), 2, coefficient)])
        row = chosen("v.pt").acting(0.5, 10.0, 2)
        assert row.coefficient == 5.0
        np.testing.assert_allclose(row.vector, np.sign(coefficient) * unit(1), rtol=1e-5)
    for length in (1e-30, 1e30):  # whose squares no float32 holds
        np.save("v.npy", unit(1) * np.float32(length))
        check_vector(chosen("v.npy", 2).held.vector, WIDTH, "v.npy")
        row = chosen("v.npy", 2).acting(0.5, 10.0, 2)
        np.testing.assert_allclose(row.vector, unit(1), rtol=1e-5)


def test_a_vector_whose_dose_nothing_chose_is_one_of_no_known_norm(selected: None) -> None:
    """As a study that steers nothing writes it: its dose and coefficient are 0."""
    write_selected(paths.SELECTED, {"finance": Selected(unit(1), 2, 0.0, 0.0, 0.0)}, {})
    which = chosen("finance")
    assert (which.residual, which.held.coefficient) == (None, 1.0)
    assert intervention("finance", 0.1, None).coefficient == pytest.approx(0.1)


@pytest.mark.parametrize("dose", ["nan", "inf"])
def test_a_dose_that_is_no_number_is_not_exported(selected: None, dose: str) -> None:
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text())
    words = ["export", "repeng", "finance", "out.gguf", "--dose", dose]
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, "no such dose" in result.stderr) == (2, True), result.output
    assert not Path("out.gguf").exists()


@pytest.mark.parametrize("more", [["--layer", "9"], ["--layer=9"]])
def test_a_dose_may_be_negative(selected: None, more: list[str]) -> None:
    np.save("v.npy", np.stack([unit(1), unit(2)]))
    for words in (["-0.3", "Hm?", *more], [*more, "-0.3", "Hm?"], ["-3e-1", *more, "Hm?"]):
        result = CliRunner().invoke(app, ["steer", "base", "v.npy", *words])
        assert "no such vector" in result.output and "block 9" in result.output
    result = CliRunner().invoke(app, ["steer", "base", "v.npy", "-0.3", "Hm?", "--lair", "1"])
    assert result.exit_code == 2
    assert "--lair" in result.output


def test_all_ways_share_random_streams_and_the_greedy_answer_comes_first(selected: None) -> None:
    params, model = tiny_params(), loaded()
    for dose in (0.0, 0.8):
        ways = {"unsteered": None, "steered": intervention("finance", dose, None)}
        texts, kl = answers(params, model, ways, "Hm?", 3)
        assert [len(each) for each in texts.values()] == [4, 4]
        assert (texts["unsteered"] == texts["steered"]) == (dose == 0)
        assert kl["unsteered"] == 0
        assert (kl["steered"] > 0.01) == (dose > 0)
    other = params.model_copy(update={"run": params.run.model_copy(update={"seed": 9})})
    again, _ = answers(other, model, ways, "Hm?", 3)
    assert again["steered"][0] == texts["steered"][0]  # greedy: no randomness
    assert again["steered"] != texts["steered"]


def test_what_is_shown_says_dose_norm_damage_and_three_answers(
    selected: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for layer, where in ((None, "recorded with the vector"), (1, "measured on this prompt")):
        show("finance on base", chosen("finance", layer), tiny_params(), loaded(), 0.5, "Hm?", 2)
        shown = capsys.readouterr().out
        assert where in shown and "dose 0.5: " in shown and "nats a token" in shown
        assert [shown.count(f" {way}: ") for way in ("unsteered", "steered", "random")] == [3] * 3
        assert shown.index("\ngreedy") < shown.index("\nsample 1") < shown.index("\nsample 2")
    with pytest.raises(UserError, match="not finite"):
        show("finance on base", chosen("finance"), tiny_params(), loaded(), 1e40, "Hm?", 2)
    with pytest.raises(UserError, match="no such block"):
        show("finance on base", chosen("finance", 9), tiny_params(), loaded(), 0.5, "Hm?", 2)
