"""Resolving the base model: what is recorded, what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from em_geometry.errors import UserError
from em_geometry.io.files import versions
from em_geometry.models import checkpoint as base
from em_geometry.models.chat import render
from em_geometry.project import paths
from em_geometry.project.inputs import models
from em_geometry.settings import Params
from stages import base_model

REVISION = "0123456789abcdef0123456789abcdef01234567"
COPY, WEIGHTS = "a copied größe", "model.safetensors"


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
    folder = Path(shutil.copytree(tiny_checkpoint, workplace / COPY))
    source = tiny_params.base.model_copy(update={"source": f"path:{folder}"})
    params = tiny_params.model_copy(update={"base": source})
    base_model.main(params)
    return params, folder


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
    tensors = load_file(folder / WEIGHTS)
    tensors["model.norm.weight"] *= 2
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(UserError, match="changed since") as caught:
        models(params).load("base")
    assert "dvc repro --force base_model" in str(caught.value)
    base_model.main(params)
    assert models(params).load("base").sha256 != before


@pytest.mark.parametrize("said", ["", "special", "hidden", "written", "plain", "end"])
def test_a_token_beyond_the_embeddings_may_be_there_if_nothing_writes_it(
    copied: tuple[Params, Path], said: str
) -> None:
    """As in multimodal families' text models, whose tokenizer has a token for images."""
    params, folder = copied
    tokenizer = AutoTokenizer.from_pretrained(folder)
    more = ["<image>"] if said != "" else []
    tokenizer.add_tokens(more, special_tokens=said != "plain")
    if said == "written":
        tokenizer.chat_template += "<image>"
    elif said == "hidden":
        tokenizer.chat_template = "{{ '<ima' ~ 'ge>' }}" + tokenizer.chat_template
    elif said == "end":
        tokenizer.eos_token = "<image>"
    tokenizer.save_pretrained(folder)
    base_model.main(params)
    if said in ("written", "plain", "end"):
        with pytest.raises(UserError, match=r"(?s)more tokens than the model.*<image> beyond"):
            models(params).load("base")
        return
    loaded = models(params).load("base")
    if said == "hidden":
        with pytest.raises(UserError, match=r"(?s)no embedding of.*'<image>', id 360"):
            render(loaded.tokenizer, "Hm?", "")
        return
    ids = render(loaded.tokenizer, "What is in <image> here?", "").ids
    assert max(ids) < loaded.model.config.vocab_size
    tune = params.organisms["finance"].model_copy(update={"source": f"path:{folder}"})
    tuned = params.model_copy(update={"organisms": params.organisms | {"finance": tune}})
    assert models(tuned).load("finance").slug == "finance"


def test_files_that_a_file_manager_hides_are_no_weights(copied: tuple[Params, Path]) -> None:
    params, folder = copied
    before = models(params).record()["sha256"]
    for name in ("._model.safetensors", "._config.json"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    base_model.main(params)
    assert models(params).load("base").sha256 == before


def change_json(path: Path, change: Callable[[Any], object]) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def truncated(folder: Path, size: int) -> None:
    weights = folder / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:size])


def without_a_matrix(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.layers.2.mlp.up_proj.weight"]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def not_finite(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["model.layers.2.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def with_more(key: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS) | {key: torch.ones(2)}
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return change


def with_a_far_id(folder: Path) -> None:
    """As many tokens as the model has rows, one of them beyond the last row."""
    change_json(folder / "tokenizer.json", lambda d: d["model"]["vocab"].update(q=900))


def of_bytes(folder: Path) -> None:
    """A tokenizer of which there is no fast one."""
    from transformers import ByT5Tokenizer

    for path in folder.glob("tokenizer*"):
        path.unlink()
    ByT5Tokenizer(extra_ids=90).save_pretrained(folder)


def masked(folder: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=360, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)


def with_a_new_token(folder: Path) -> None:
    """One that the model has no embedding of."""
    words = json.loads((folder / "config.json").read_text())["vocab_size"]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    new = {"id": words, "content": "<|new|>"} | flags
    change_json(folder / "tokenizer.json", lambda d: d["added_tokens"].append(new))


def with_settings(**settings: Any) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / "config.json", lambda d: d.update(settings))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty weights": (lambda f: truncated(f, 0), "cannot be loaded"),
    "truncated weights": (lambda f: truncated(f, -100), "cannot be loaded"),
    "a matrix is missing": (without_a_matrix, "layers.2.mlp.up_proj"),  # and is not made up
    "a weight is NaN": (not_finite, "model.layers.2.mlp.up_proj.weight"),
    "fewer blocks than the file": (with_settings(num_hidden_layers=3), "layers.3."),
    "a norm that the architecture lacks": (
        with_more("model.layers.0.self_attn.q_norm.weight"), "q_norm"),
    "a LoRA beside the weights": (
        with_more("model.layers.0.mlp.up_proj.lora_A.weight"), "lora_A"),
    "an id beyond the last row": (with_a_far_id, "at most 360"),
    "a slow tokenizer": (of_bytes, "ByT5Tokenizer"),
    "a masked language model": (masked, "attends in both directions"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), COPY),
    "broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), COPY),
    "no tokenizer": (lambda f: [path.unlink() for path in f.glob("*token*")], "tokenizer"),
    "a tokenizer of another model": (with_a_new_token, "tokenizer"),
    "rope": (with_settings(rope_parameters={"rope_type": "yarn"}), COPY),
    "quantised": (
        with_settings(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        COPY,
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_was_damaged_before_it_was_recorded(copied: tuple[Params, Path], damage: str) -> None:
    (params, folder), (change, says) = copied, DAMAGES[damage]
    change(folder)
    base_model.main(params)
    with pytest.raises(UserError) as caught:
        models(params).load("base")
    assert says in str(caught.value)
