"""Anybody's vectors go through the battery without a model."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_steering import WIDTH, unit

from em_geometry.activations.capture import capture
from em_geometry.activations.prompts import prompt_texts, read_prompts
from em_geometry.errors import UserError
from em_geometry.models import train
from em_geometry.project.analyse import adapter_vectors, analyse, file_vectors, given_vectors
from em_geometry.project.inputs import models
from em_geometry.settings import Organism, Params, Prompts
from em_geometry.steering.conditions import Intervention, Selected, write_selected
from em_geometry.steering.formats import write_vectors
from em_geometry.vectors.contrasts import VectorTable, write_vector_table
from tests.conftest import ROOT


def analysed(path: Path, *clusters: str) -> tuple[dict[str, Any], str]:
    """All statistics, as JSON and as text."""
    out = path.parent / "out"
    analyse(path, [*clusters], out=out)
    return json.loads(out.with_suffix(".json").read_text()), out.with_suffix(".txt").read_text()


def test_a_folder_of_vectors(tmp_path: Path) -> None:
    near = [unit(i // 2) + 0.2 * unit(10 + i) for i in range(4)]
    kinds = ("safetensors", "pt", "gguf", "pt")
    for i, (vector, kind) in enumerate(zip(near, kinds, strict=True)):
        write_vectors(tmp_path / f"v/v{i}.{kind}", [Intervention(vector, 2, 1.0)])
    found, text = analysed(tmp_path / "v", "a=v0,v1", "b=v2,v3")
    cosine = near[0] @ near[1] / np.linalg.norm(near[0]) / np.linalg.norm(near[1])
    assert found["cosine"]["v0__v1"] == pytest.approx(cosine, abs=1e-5)
    assert found["power"]["test1"]["verdict_paper"] in ("discriminates", "cannot discriminate")
    assert found["chance"]["closeness"]["p"] < 0.01
    assert "common core" in text
    assert "do not look like random ones" in text


def test_vectors_without_any_relation_are_called_random(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(1)
    rows = {f"v{i}": rng.standard_normal(576).astype(np.float32) for i in range(6)}
    chosen = {n: Selected(r / np.linalg.norm(r), 2, 0.3, 1.0, 2.0) for n, r in rows.items()}
    write_selected(tmp_path / "selected.safetensors", chosen, {})
    found, _ = analysed(tmp_path / "selected.safetensors", "a=v0,v1", "b=v2,v3", "c=v4,v5")
    shown = capsys.readouterr().out
    assert "These vectors look like random ones" in shown
    assert "hold none at all" in shown  # no core, and so no power
    assert found["verdict"]["count"] >= 3  # which is what chance gives
    low, high = (found["chance"]["verdict"]["count"][end] for end in ("low", "high"))
    assert low <= found["verdict"]["count"] <= high
    assert found["chance"]["statistic"]["test1"]["p"] > 0.05
    assert found["chance"]["core"]["share"]["p"] > 0.05
    assert found["chance"]["similarity"]["cross_mean"]["p_of_clusters"] > 0.05


def test_files_of_all_blocks_are_read_at_the_block_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {name: np.stack([unit(10 * i + row) for row in range(5)]) for i, name in enumerate("ab")}
    np.save(tmp_path / "a.npy", rows["a"])
    torch.save(torch.from_numpy(rows["b"]), tmp_path / "b.pt")
    for other in ("c.pkl", ".DS_Store", "._a.npy"):
        (tmp_path / other).touch()
    found = file_vectors(tmp_path, 3)
    assert "2 vectors, block as the files number it: 3" in (shown := capsys.readouterr().out)
    assert "left out, as no vectors: .DS_Store, ._a.npy, c.pkl" in shown
    for name, vector in found.items():
        np.testing.assert_array_equal(vector, rows[name][3].astype(np.float64))
    with pytest.raises(UserError, match="which of these"):
        file_vectors(tmp_path)
    np.savez(tmp_path / "both.npz", **rows)  # several by name, in one file
    np.testing.assert_array_equal(file_vectors(tmp_path / "both.npz", 3)["b"], found["b"])


def test_the_runs_table_of_all_vectors(tmp_path: Path) -> None:
    choice, names = "control_contrast.answer_mean", tmp_path / "vectors.safetensors"
    rows = [np.stack([unit(m), unit(m + 5)]) for m in (1, 2)]
    entries = {choice: ["undefined: its own reference", *rows]}
    table = VectorTable.of(["base", "calm", "rude"], entries, np.ones(2))
    write_vector_table(names, tmp_path / "index.parquet", table)
    found = file_vectors(names, 1, choice)
    assert list(found) == ["calm", "rude"]  # the base is its own reference
    np.testing.assert_allclose(found["rude"], unit(7), atol=1e-6)
    with pytest.raises(UserError, match="holds a space, a dot") as caught:
        file_vectors(names, 1)
    assert "--name" in str(caught.value)


def test_a_name_that_no_tensor_has_is_answered_with_those_there(tmp_path: Path) -> None:
    save_file({f"calm_layer{i}": torch.ones(WIDTH) for i in (1, 2)}, tmp_path / "v.safetensors")
    with pytest.raises(UserError, match="no such vectors") as caught:
        file_vectors(tmp_path / "v.safetensors", None, "calm")
    assert "calm_layer1, calm_layer2" in str(caught.value) and "calm.<name>" in str(caught.value)


def test_a_block_that_is_not_the_files_own_is_refused(tmp_path: Path) -> None:
    for name in ("calm", "rude"):
        write_vectors(tmp_path / f"{name}.pt", [Intervention(unit(1), 14, 1.0)])
    assert len(file_vectors(tmp_path, 14)) == 2
    with pytest.raises(UserError, match="no such vector"):
        file_vectors(tmp_path, 3)
    np.save(tmp_path / "wild.npy", unit(2))
    with pytest.raises(UserError, match="across blocks") as caught:
        file_vectors(tmp_path)
    assert "calm: 14, rude: 14, wild: none" in str(caught.value)
    assert len(file_vectors(tmp_path, 14)) == 3
    chosen = {"calm": Selected(unit(1), 14, 0.3, 1.0, 2.0)}
    write_selected(tmp_path / "selected.safetensors", chosen, {})
    with pytest.raises(UserError, match="no such vector"):
        file_vectors(tmp_path / "selected.safetensors", 3)


@pytest.mark.parametrize(
    "other",
    [
        {"vector": torch.randn(5, WIDTH)},  # its row 2 may be what leaves block 1
        {"layers.2": torch.randn(WIDTH)},
    ],
    ids=["other rows", "a named block"],
)
def test_rows_are_compared_with_rows_of_as_many_alone(
    tmp_path: Path, other: dict[str, torch.Tensor]
) -> None:
    torch.save(torch.randn(4, WIDTH), tmp_path / "calm.pt")
    torch.save(torch.randn(4, WIDTH), tmp_path / "rude.pt")
    assert len(file_vectors(tmp_path, 2)) == 2
    torch.save(other, tmp_path / "wild.pt")
    with pytest.raises(UserError, match="across blocks") as caught:
        file_vectors(tmp_path, 2)
    assert "calm: 2 of 4 rows" in str(caught.value)


def test_what_enters_a_block_is_not_compared_with_what_leaves_it(tmp_path: Path) -> None:
    for name, point in (("calm", "2.hook_resid_post"), ("rude", "2.hook_resid_pre")):
        torch.save({f"blocks.{point}": torch.randn(WIDTH)}, tmp_path / f"{name}.pt")
    with pytest.raises(UserError, match="no such vector"):
        file_vectors(tmp_path, 2)
    with pytest.raises(UserError, match="across blocks") as caught:
        file_vectors(tmp_path)
    assert "calm: 2, rude: 1" in str(caught.value)
    torch.save({"blocks.2.hook_resid_mid": torch.randn(WIDTH)}, tmp_path / "rude.pt")
    with pytest.raises(UserError, match="across blocks") as caught:
        file_vectors(tmp_path, 2)
    assert "calm: 2, rude: 2 at hook_resid_mid" in str(caught.value)


def test_a_folder_of_adapters(tiny_params: Params, tmp_path: Path) -> None:
    sha256 = models(tiny_params).record()["sha256"]
    recipe, folder = tiny_params.recipes["model_organisms"], tmp_path / "adapters"
    for i in range(4):
        train.save(
            train.with_adapter(models(tiny_params).base(), recipe, i), folder / f"a-{i}", sha256
        )
        path = folder / f"a-{i}/adapter_model.safetensors"
        tensors = load_file(path)
        torch.manual_seed(i // 2)  # two and two act alike
        for name, tensor in tensors.items():
            tensors[name] = torch.randn_like(tensor) / 10
        save_file(tensors, path, metadata={"format": "pt"})
    files = {kind: str(ROOT / f"data/prompts/{kind}.jsonl") for kind in ("neutral", "harmful")}
    prompts = Prompts(**files, limit=3)
    params = tiny_params.model_copy(update={"prompts": prompts})
    adapters = sorted(folder.iterdir())
    found = adapter_vectors(adapters, params, 2)
    assert list(found) == ["a-0", "a-1", "a-2", "a-3"]
    vectors = list(found.values())
    np.testing.assert_allclose(vectors[0], vectors[1], rtol=1e-5)
    assert not np.allclose(vectors[0], vectors[2], rtol=0.1)
    known, spans = models(params), params.activations.spans
    every, system = read_prompts(params.prompts), known.system_prompt
    texts, _ = prompt_texts(every, spans, known.tokenizer(), system)
    last = params.activations.spans.index("prompt_last")
    organism = Organism(lab="x", cluster="x", data="", source=f"path:{adapters[2]}")
    one = params.model_copy(update={"organisms": {"one": organism}})
    means = [
        capture(models(one).load(slug).model, texts)[0][:, last, 2].mean(0)
        for slug in ("one", "base")
    ]
    np.testing.assert_allclose(vectors[2], (means[0] - means[1]).numpy(), rtol=1e-3, atol=1e-5)
    with pytest.raises(UserError, match="no such block"):
        adapter_vectors(adapters, params, 99)


def test_no_folder_beside_adapters_is_left_out_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One without its config is an adapter too, which loading refuses."""
    (tmp_path / "._a.pt").touch()
    for file in ("a/adapter_config.json", "b/adapter_model.bin", "c/last/adapter_config.json"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    module = sys.modules[given_vectors.__module__]
    monkeypatch.setattr(
        module, "adapter_vectors", lambda each, *_: {p.name: unit(i) for i, p in enumerate(each)}
    )
    assert list(given_vectors(tmp_path, None, None, ROOT / "profiles/smol.yaml")) == ["a", "b"]
    assert "left out, as no adapters: c" in capsys.readouterr().out
