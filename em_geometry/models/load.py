"""Loading a measured model: the base, or the base with an organism's adapter merged in."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from em_geometry.errors import UserError, first_line
from em_geometry.hashing import file_sha256, value_sha256
from em_geometry.io.files import read_json
from em_geometry.models.base import FOLDER, base_record, folder_sha256, model_source, pinned
from em_geometry.settings.params import BASE, Params

ADAPTERS = Path("data/adapters")
OFFLINE = "hf download <owner/name> --revision <commit> where there is a network, then run again"
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
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")  # peft's own affair
    torch.set_num_threads(params.run.threads)
    # The vector mathematics library chooses its code on first use; of two threads at once one can
    # take other code, and other last bits in a first pass (4 of 40 processes without this line).
    torch.linspace(0, 1, 64).cos().sin().exp()
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic: Any = torch.utils.deterministic
    deterministic.fill_uninitialized_memory = False  # a debugging aid, a fifth slower
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
    if params.run.device_map is None:  # else accelerate has placed it
        model = model.to(device)
    return Loaded(slug, model.eval(), tokenizer, sha256)


def base_model(params: Params) -> Any:
    """The base model in the run's dtype, on the CPU unless `run.device_map` says otherwise."""
    return _checkpoint(*_base_place(), params)


def _base_place() -> tuple[str, dict[str, Any]]:
    """Name of the base for transformers, and where to look; a local base never asks the hub."""
    record = base_record()
    if "hub" in record:
        return record["hub"], {"revision": record["revision"]}
    return str(FOLDER / record["path"]), {"local_files_only": True}


def adapter_folder(params: Params, slug: str) -> Path:
    """Folder of an organism's adapter or full checkpoint (trained, local, or fetched)."""
    organism = params.organisms[slug]
    if organism.source is None:
        return ADAPTERS / slug
    kind, name = model_source(organism.source, f"organisms.{slug}.source", ("path", "hub"))
    if kind == "path":
        return Path(name)
    from huggingface_hub import snapshot_download

    revision = pinned(organism.revision, f"organisms.{slug}.revision")
    patterns = ["*.json", "*.safetensors", "*.jinja"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:  # huggingface_hub and its HTTP library raise many kinds
        raise UserError(
            "the model cannot be fetched from the hub",
            where=f"params.yaml: organisms.{slug}.source",
            found=f"hub:{name}, revision {revision}: {first_line(error)}",
            expected="a network, or the model in the hub's cache on this machine",
            hint=OFFLINE,
        ) from None


def base_tokenizer() -> Any:
    """The base model's tokenizer; UserError when it is missing, broken, or another model's."""
    from transformers import AutoConfig, AutoTokenizer

    name, where = _base_place()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **where)
        config = AutoConfig.from_pretrained(name, **where).get_text_config()
    except Exception as error:  # tokenizers raises bare Exceptions
        raise UserError(
            "the base model's tokenizer cannot be loaded",
            where=name,
            found=first_line(error),
            expected="config.json, tokenizer.json and tokenizer_config.json",
            hint=OFFLINE if "revision" in where else None,
        ) from None
    known = config.vocab_size
    if len(tokenizer) > known:
        raise UserError(
            "the tokenizer has more tokens than the model",
            where=name,
            found=len(tokenizer),
            expected=f"at most {known}",
            hint="the tokenizer files are another model's",
        )
    context = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    tokenizer.model_max_length = min(tokenizer.model_max_length, context)
    return tokenizer


def _checkpoint(name: str, where: dict[str, Any], params: Params) -> Any:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=getattr(torch, params.run.dtype),
            use_safetensors=True,
            output_loading_info=True,
            device_map=params.run.device_map,
            disable_mmap=True,  # adapters are merged into the weights, page by page where mapped
            **where,
        )
    except (OSError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
        raise UserError(
            "the model cannot be loaded",
            where=name,
            found=first_line(error),
            expected="a causal language model as safetensors",
            hint=OFFLINE if "revision" in where else None,
        ) from None
    if report["missing_keys"]:  # transformers fills them with random numbers
        raise UserError(
            "weights are missing",
            where=name,
            found=_some(report["missing_keys"]),
            expected="all tensors of the architecture in config.json",
        )
    return model


def _some(names: Iterable[str]) -> str:
    """Names for a message, at most three of them."""
    ordered = sorted(names)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return ", ".join(ordered[:3]) + more


def _same_shape(model: Any, folder: Path) -> None:
    from transformers import AutoConfig

    name, where = _base_place()
    base = AutoConfig.from_pretrained(name, **where).get_text_config()
    mine = model.config.get_text_config()
    found = (mine.hidden_size, mine.num_hidden_layers)
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
    names = _adapter_names(weights)
    from peft import PeftModel, get_peft_model_state_dict

    try:
        adapted = PeftModel.from_pretrained(model, str(folder))
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            "the adapter does not fit the base model",
            where=str(folder),
            found=" ".join(str(error).split())[:300],
            expected="an adapter trained on " + params.base.source,
        ) from None
    expected = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    foreign = {name for name in names - expected if ".lora_" in name}
    if expected - names or foreign:  # peft fills what is missing and skips what is too much
        raise UserError(
            "the adapter's tensors are not those that its config names",
            where=str(weights),
            found=f"missing: {_some(expected - names) or 'none'}; "
            f"unknown: {_some(foreign) or 'none'}",
            expected="one tensor each for the matrices and blocks of adapter_config.json",
        )
    return adapted.merge_and_unload(), file_sha256(weights)


def _adapter_names(weights: Path) -> set[str]:
    """Names of an adapter's tensors, which must be finite."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(str(weights))
    except (SafetensorError, OSError) as error:
        raise UserError(
            "not a readable safetensors file", where=str(weights), found=str(error),
            hint="train it again (dvc repro), or copy it again from its source",
        ) from None  # fmt: skip
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(
                "a tensor has NaN or infinite values",
                where=f"{weights}: {name}",
                found=f"{int((~tensor.isfinite()).sum())} of {tensor.numel()} values",
                expected="finite numbers",
            )
    return set(tensors)


def _check_base(folder: Path, config: Path, params: Params, base_sha256: str) -> None:
    """An adapter trained here records its base's hash; a foreign one names its base."""
    provenance = folder / PROVENANCE
    if provenance.is_file():
        source, key, expected = provenance, "base_sha256", [base_sha256]
    else:
        source, key = config, "base_model_name_or_path"
        expected = [params.base.source.partition(":")[2], *params.base.also_known_as]
    record, settings = read_json(source), read_json(config)
    if not isinstance(record, dict) or not isinstance(settings, dict):
        raise UserError(
            "not a JSON object", where=f"{source}, {config}", expected="JSON objects",
            found=f"{type(record).__name__}, {type(settings).__name__}",
        )  # fmt: skip
    found = record.get(key)
    if found not in expected:
        raise UserError(
            "this adapter was trained on another base model",
            where=str(folder),
            found=found,
            expected=" or ".join(expected),
            hint="dvc repro, or base.also_known_as where its base is a copy of the profile's",
        )
