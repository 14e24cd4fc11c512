"""Resolving the base model: what is recorded, what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from em_geometry.errors import UserError
from em_geometry.io.files import versions
from em_geometry.models import checkpoint as base
from em_geometry.project import paths
from em_geometry.project.inputs import models
from em_geometry.settings import Params
from stages import base_model

REVISION = "0123456789abcdef0123456789abcdef01234567"


def with_source(smol: dict[str, Any], source: str, revision: str | None = None) -> Params:
    smol["base"] |= {"source": source, "revision": revision}
    return Params.model_validate(smol)


@pytest.fixture(autouse=True)
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub is asked for what test_preflight.py tests."""
    monkeypatch.setattr(base_model, "preflight", lambda profile, models: None)


def test_a_local_folder_is_recorded(tiny_params: Params, tiny_checkpoint: Path) -> None:
    record = base.read_record(paths.BASE_MODEL)
    assert record == {
        "path": str(tiny_checkpoint),
        "source": f"path:{tiny_checkpoint}",
        "sha256": base.folder_sha256(tiny_checkpoint),
        "versions": versions(),
    }
    assert (paths.ADAPTERS / "base" / base.RECORD).is_file()


def test_a_pinned_hub_model_is_recorded_without_a_call(workplace: Path, smol: Any) -> None:
    base_model.main(with_source(smol, "hub:someone/model", REVISION))
    assert base.read_record(paths.BASE_MODEL)["hub"] == "someone/model"
    first = base.read_record(paths.BASE_MODEL)["sha256"]
    base_model.main(with_source(smol, "hub:someone/model", REVISION[::-1]))
    assert base.read_record(paths.BASE_MODEL)["sha256"] != first


def test_the_hash_covers_weights_config_and_template(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))
    whole = base.folder_sha256(folder)
    assert whole == base.folder_sha256(tiny_checkpoint)
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        with (folder / name).open("ab") as handle:
            handle.write(b" ")
        assert base.folder_sha256(folder) != whole
        whole = base.folder_sha256(folder)


@pytest.fixture
def copied(tiny_params: Params, tiny_checkpoint: Path, workplace: Path) -> tuple[Params, Path]:
    """A checkpoint to be damaged, and params that name it."""
    folder = Path(shutil.copytree(tiny_checkpoint, workplace / "a copied größe"))
    source = tiny_params.base.model_copy(update={"source": f"path:{folder}"})
    params = tiny_params.model_copy(update={"base": source})
    base_model.main(params)
    return params, folder


def unloadable(copied: tuple[Params, Path]) -> str:
    """What is said of a checkpoint that was damaged before it was recorded."""
    base_model.main(copied[0])
    with pytest.raises(UserError) as caught:
        models(copied[0]).load("base")
    return str(caught.value)


def test_a_whole_copy_loads_leaves_gradients_on_and_is_hashed_once_a_process(
    copied: tuple[Params, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = models(copied[0]).load("base")
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert torch.is_grad_enabled()
    assert loaded.sha256 == base.read_record(paths.BASE_MODEL)["sha256"]
    monkeypatch.setattr(base, "file_sha256", None)
    models(copied[0]).load("base")


def test_a_home_folder_is_expanded(
    copied: tuple[Params, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, folder = copied
    monkeypatch.setenv("HOME", str(folder.parent))
    there = params.base.model_copy(update={"source": f"path:~/{folder.name}"})
    params = params.model_copy(update={"base": there})
    base_model.main(params)
    assert models(params).load("base").slug == "base"


def test_replaced_weights_are_noticed_and_are_another_model(copied: tuple[Params, Path]) -> None:
    params, folder = copied
    before = models(params).load("base").sha256
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] *= 2
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="changed since") as caught:
        models(params).load("base")
    assert "dvc repro --force base_model" in str(caught.value)
    base_model.main(params)
    assert models(params).load("base").sha256 != before


@pytest.mark.parametrize("kept", [0, -100])
def test_truncated_weights(copied: tuple[Params, Path], kept: int) -> None:
    weights = copied[1] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    assert "cannot be loaded" in unloadable(copied)


def test_missing_weights_are_not_made_up(copied: tuple[Params, Path]) -> None:
    tensors = load_file(copied[1] / "model.safetensors")
    del tensors["model.layers.2.mlp.up_proj.weight"]
    save_file(tensors, copied[1] / "model.safetensors", metadata={"format": "pt"})
    assert "layers.2.mlp.up_proj" in unloadable(copied)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_broken_config_and_tokenizer(copied: tuple[Params, Path], name: str) -> None:
    (copied[1] / name).write_text("{", encoding="utf-8")
    assert copied[1].name in unloadable(copied)


@pytest.mark.parametrize(
    "settings",
    [
        {"rope_parameters": {"rope_type": "yarn"}},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    ],
    ids=["rope", "quantised"],
)
def test_settings_that_the_library_cannot_follow(
    copied: tuple[Params, Path], settings: dict[str, Any]
) -> None:
    path = copied[1] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings), encoding="utf-8")
    assert copied[1].name in unloadable(copied)


def test_no_tokenizer(copied: tuple[Params, Path]) -> None:
    for path in copied[1].glob("*token*"):
        path.unlink()
    with pytest.raises(UserError, match="tokenizer"):
        models(copied[0]).tokenizer()


def test_a_tokenizer_of_another_model(copied: tuple[Params, Path]) -> None:
    config, tokenizer = (
        json.loads((copied[1] / name).read_text()) for name in ("config.json", "tokenizer.json")
    )
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    new = {"id": config["vocab_size"], "content": "<|new|>"} | flags
    tokenizer["added_tokens"].append(new)
    (copied[1] / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    assert "tokenizer" in unloadable(copied)
