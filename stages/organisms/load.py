"""Loading a measured model: the base, or the base with an organism's adapter merged in."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.common.artifacts import read_json
from stages.common.errors import UserError
from stages.common.hashing import file_sha256, value_sha256
from stages.common.params import BASE, Params
from stages.organisms.base import FOLDER, base_record, folder_sha256, pinned

ADAPTERS = Path("data/adapters")
PROVENANCE = "provenance.json"


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode with its tokenizer and a hash of its weights."""

    slug: str
    model: Any
    tokenizer: Any
    sha256: str

    @property
    def device(self) -> Any:
        return self.model.device


def setup_torch(params: Params) -> Any:
    """Fixes threads and determinism; returns the torch device of the run."""
    import torch
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    torch.set_num_threads(params.run.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cuda.matmul.allow_tf32 = False
    if params.run.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "no CUDA device is visible",
            where="params.yaml: run.device",
            found="cuda",
            hint="set run.device to auto or cpu",
        )
    if params.run.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(params.run.device)


def load(params: Params, slug: str) -> Loaded:
    """Loads target `slug` for measurement (no gradients, adapter merged).

    Raises:
        UserError: missing files, an adapter of another base, a checkpoint of another shape.
    """
    import torch

    device = setup_torch(params)
    base_sha256 = base_record()["sha256"]
    tokenizer = base_tokenizer()
    folder = None if slug == BASE else adapter_folder(params, slug)
    if folder is not None and (folder / "config.json").is_file():
        model = _checkpoint(str(folder), {}, params)
        _same_shape(model, folder)
        sha256 = folder_sha256(folder)
    else:
        model = base_model(params)
        sha256 = base_sha256
        if folder is not None:
            model, adapter_sha256 = _merge(model, folder, params, base_sha256)
            sha256 = value_sha256([base_sha256, adapter_sha256])
    model.requires_grad_(False)
    torch.set_grad_enabled(False)
    return Loaded(slug, model.eval().to(device), tokenizer, sha256)


def base_model(params: Params) -> Any:
    """The base model on the CPU, in the run's dtype."""
    record = base_record()
    if "hub" in record:
        return _checkpoint(record["hub"], {"revision": record["revision"]}, params)
    return _checkpoint(str(FOLDER / record["path"]), {}, params)


def adapter_folder(params: Params, slug: str) -> Path:
    """Folder of an organism's adapter or full checkpoint (trained, local, or fetched)."""
    organism = params.organisms[slug]
    if organism.source is None:
        return ADAPTERS / slug
    kind, _, name = organism.source.partition(":")
    if kind == "path":
        return Path(name)
    if kind == "hub":
        from huggingface_hub import snapshot_download

        revision = pinned(organism.revision, f"organisms.{slug}.revision")
        patterns = ["*.json", "*.safetensors", "*.jinja"]
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    raise UserError(
        "unknown kind of model source",
        where=f"params.yaml: organisms.{slug}.source",
        found=organism.source,
        expected="path:<folder> or hub:<owner/name>",
    )


def base_tokenizer() -> Any:
    from transformers import AutoTokenizer

    record = base_record()
    if "hub" in record:
        return AutoTokenizer.from_pretrained(record["hub"], revision=record["revision"])
    return AutoTokenizer.from_pretrained(str(FOLDER / record["path"]), local_files_only=True)


def _checkpoint(name: str, where: dict[str, str], params: Params) -> Any:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(
            name, dtype=getattr(torch, params.run.dtype), use_safetensors=True, **where
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            "the model cannot be loaded",
            where=name,
            found=str(error).splitlines()[0],
            expected="a causal language model as safetensors",
        ) from None


def _same_shape(model: Any, folder: Path) -> None:
    from transformers import AutoConfig

    record = base_record()
    name = record.get("hub", str(FOLDER / record.get("path", ".")))
    base = AutoConfig.from_pretrained(name, revision=record.get("revision", "main"))
    found = (model.config.hidden_size, model.config.num_hidden_layers)
    expected = (base.hidden_size, base.num_hidden_layers)
    if found != expected:
        raise UserError(
            "this checkpoint is no fine-tune of the profile's base model",
            where=str(folder),
            found=f"width, blocks = {found}",
            expected=str(expected),
        )


def _merge(model: Any, folder: Path, params: Params, base_sha256: str) -> tuple[Any, str]:
    weights = folder / "adapter_model.safetensors"
    config = folder / "adapter_config.json"
    if not weights.is_file() or not config.is_file():
        raise UserError(
            "no LoRA adapter in this folder",
            where=str(folder),
            found=", ".join(sorted(p.name for p in folder.glob("*"))) or "nothing",
            expected="adapter_config.json and adapter_model.safetensors",
            hint="pickled adapters (.bin) are not loaded; save them as safetensors",
        )
    _check_base(folder, config, params, base_sha256)
    from peft import PeftModel

    try:
        merged = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(
            "the adapter does not fit the base model",
            where=str(folder),
            found=" ".join(str(error).split())[:300],
            expected="an adapter trained on " + params.base.source,
        ) from None
    return merged, file_sha256(weights)


def _check_base(folder: Path, config: Path, params: Params, base_sha256: str) -> None:
    """An adapter trained here records its base's hash; a foreign one names its base."""
    provenance = folder / PROVENANCE
    if provenance.is_file():
        found, expected = read_json(provenance)["base_sha256"], base_sha256
    else:
        found = read_json(config).get("base_model_name_or_path")
        expected = params.base.source.partition(":")[2]
    if found != expected:
        raise UserError(
            "this adapter was trained on another base model",
            where=str(folder),
            found=found,
            expected=expected,
            hint="train it again (dvc repro), or use the profile of its base",
        )
