"""Folders as people bring them: what they hold is told apart, and what cannot serve is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from em_geometry.errors import UserError
from em_geometry.models.folder import check_checkpoint, is_adapter
from em_geometry.models.load import watch

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1234\n"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
W = np.ones((2, 2), np.float32)


def put(folder: Path, name: str, content: Any) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text, encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint in two shards; no library of models ever reads it."""
    put(tmp_path, "config.json", {"model_type": "llama"})
    save_file({"a.weight": W}, tmp_path / ONE)
    save_file({"b.weight": W, "b.count": np.ones(2, np.int64)}, tmp_path / TWO)
    shards = {"a.weight": ONE, "b.weight": TWO, "b.count": TWO}
    put(tmp_path, "model.safetensors.index.json", {"weight_map": shards})
    return tmp_path


def quantised(**config: Any) -> Callable[[Path], None]:
    return lambda folder: put(folder, "config.json", {"model_type": "llama", **config})


def only(suffix: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for path in folder.glob("*.safetensors"):
            path.rename(path.with_suffix(suffix))

    return change


def weights(**tensors: Any) -> Callable[[Path], Any]:
    return lambda folder: save_file({f"{k}.weight": v for k, v in tensors.items()}, folder / ONE)


def one_beside_others(folder: Path) -> None:
    for shard in (ONE, TWO):
        (folder / shard).unlink()
    for name in ("model.safetensors", "part-1.safetensors"):
        save_file({"a.weight": W}, folder / name)
    index = {"weight_map": {"a.weight": "part-1.safetensors"}}
    put(folder, "model.safetensors.index.json", index)


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "bitsandbytes": (quantised(quantization_config={"load_in_4bit": True}), "quantised weights"),
    "a method's name": (quantised(quantization_config="awq"), "quantised weights"),
    "within the text model's part": (
        quantised(text_config={"quantization_config": {"quant_method": "fp8"}}), "quantised"),
    "compressed tensors": (quantised(compression_config={"format": "int"}), "quantised weights"),
    "GPTQ's own file": (lambda f: put(f, "quantize_config.json", {"bits": 4}), "quantize_config"),
    "no config says it": (weights(a=np.ones((2, 2), np.int8)), "I8 in a.weight"),
    "pickles": (only(".bin"), "writes safetensors"),
    "GGUF": (only(".gguf"), "gguf_file"),
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "half a config": (lambda f: put(f, "config.json", '{"model_type'), "not a JSON file"),
    "half a generation_config": (lambda f: put(f, "generation_config.json", "{"), "not a JSON"),
    "a list for a config": (lambda f: put(f, "config.json", []), "config.json"),
    "a shard is missing": (lambda f: (f / TWO).unlink(), TWO),
    "a tensor in no shard": (weights(c=W), f"no {ONE}: a.weight"),
    "weights that are kept in parts": (weights(a=np.ones((0, 2), np.float32)), "zero_to_fp32"),
    "one file beside shards": (
        lambda f: save_file({"a.weight": W}, f / "model.safetensors"),
        f"model.safetensors, and {ONE}, {TWO}"),
    "one file beside shards of other names": (
        one_beside_others, "model.safetensors, and part-1.safetensors"),
    "half an index": (lambda f: put(f, "model.safetensors.index.json", "{"), "index.json"),
    "an index of nothing": (lambda f: put(f, "model.safetensors.index.json", {}), "index.json"),
    "half a shard": (lambda f: put(f, ONE, "1234567890"), "cannot be loaded"),
    "a pointer for weights": (lambda f: put(f, TWO, POINTER), "git lfs pull"),
    "a pointer for a tokenizer": (lambda f: put(f, "tokenizer.json", POINTER), "tokenizer.json"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_whole_checkpoint_in_full_precision(folder: Path, fault: str) -> None:
    change, says = FAULTS[fault]
    check_checkpoint(folder)
    change(folder)
    with pytest.raises(UserError) as caught:
        check_checkpoint(folder)
    assert says in str(caught.value)
    assert str(folder) in str(caught.value)


def test_an_adapter_is_one_also_beside_its_bases_config(folder: Path, tmp_path: Path) -> None:
    put(folder, "adapter_config.json", {"peft_type": "LORA"})
    with pytest.raises(UserError, match="which is the model"):
        is_adapter(folder)
    for shard in (ONE, TWO):
        (folder / shard).unlink()
    assert is_adapter(folder)


KEY = "organisms.finance.source"
KINDS: list[dict[str, Any]] = [
    {"peft_type": kind} for kind in ("PROMPT_TUNING", "PREFIX_TUNING", "IA3", "LOHA", "VERA", None)
] + [
    {"layer_replication": [[0, 2]]},
    {"alora_invocation_tokens": [1]},
    {"task_type": "SEQ_CLS"},
]  # fmt: skip


@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_adapters_that_are_no_change_of_weights(tmp_path: Path, settings: dict[str, Any]) -> None:
    save_file({"a.lora_A.weight": W}, tmp_path / "adapter_model.safetensors")
    put(tmp_path, "adapter_config.json", {"peft_type": "LORA", **settings})
    with pytest.raises(UserError, match="only LoRA adapters"):
        watch(f"path:{tmp_path}", KEY, tmp_path / "links")


def test_links_follow_a_model_wherever_it_lies(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    links = tmp_path_factory.mktemp("watched") / "base"
    put(folder, f"._{ONE}", "a file manager's")
    before = watch(f"path:~/{folder.name}", KEY, links)
    assert not (links / f"._{ONE}").is_symlink()
    assert (links / ONE).resolve() == (folder / ONE).resolve()
    put(folder, "generation_config.json", {"eos_token_id": [1, 2]})
    assert watch(f"path:~/{folder.name}", KEY, links) != before
    assert (links / "generation_config.json").is_symlink()
    assert watch("hub:someone/model", KEY, links) is None
    assert not links.exists()
    assert (folder / ONE).is_file()
    watch(f"path:{folder}", KEY, links)
    with pytest.raises(UserError, match="the folder of this model is not there") as caught:
        watch(f"path:{folder}/moved", KEY, links)
    assert KEY in str(caught.value) and not links.exists()
