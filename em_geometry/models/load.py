"""Loading a measured model: the base, or the base with an organism's adapter merged in."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em_geometry.errors import UserError, first_line
from em_geometry.hashing import file_sha256, value_sha256
from em_geometry.io.files import read_json
from em_geometry.models.base import folder_of, folder_sha256, model_source, pinned, read_record
from em_geometry.settings.params import BASE
from em_geometry.settings.sections import Base, Organism, Run

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OFFLINE = "hf download <owner/name> --revision <commit> where there is a network, then run again"
PROVENANCE = "provenance.json"


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode, without gradients, with its tokenizer and a hash of its weights.

    Attributes:
        slug: of the target, or a name for the random streams of its answers.
        sha256: of everything that determines the weights; journals are keyed by it.
    """

    slug: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sha256: str


@dataclass(frozen=True)
class Models:
    """Where the models of a run come from, and how they are loaded.

    Small and picklable, so that a worker can be given it and load a model of its own.

    Attributes:
        run: device, dtype and threads.
        origin: the section `base` of the params.
        base_folder: what the stage `base_model` wrote.
        organisms: by slug.
        adapters: folder of the adapters that were trained here, one folder a slug.
    """

    run: Run
    origin: Base
    base_folder: Path
    organisms: Mapping[str, Organism]
    adapters: Path

    @property
    def system_prompt(self) -> str:
        """System prompt of every chat."""
        return self.origin.system_prompt

    def record(self) -> dict[str, str]:
        """What the stage `base_model` wrote down: source and `sha256` of the base."""
        return read_record(self.base_folder)

    def load(self, slug: str) -> Loaded:
        """Target `slug` for measurement (no gradients, adapter merged).

        Raises:
            UserError: missing files, an adapter of another base, a checkpoint of another shape.
        """
        device = setup_torch(self.run)
        base_sha256 = self.record()["sha256"]
        tokenizer = self.tokenizer()
        folder = None if slug == BASE else self.adapter_folder(slug)
        if folder is not None and (folder / "config.json").is_file():
            model = _checkpoint(str(folder), {}, self.run)
            self._check_shape(model, folder)
            sha256 = folder_sha256(folder)
        else:
            model = self.base()
            sha256 = base_sha256
            if folder is not None:
                model, adapter_sha256 = _merge(model, folder, self.origin, base_sha256)
                sha256 = value_sha256([base_sha256, adapter_sha256])
        model.requires_grad_(False)
        if self.run.device_map is None:  # else accelerate has placed it
            model = model.to(device)
        return Loaded(slug, model.eval(), tokenizer, sha256)

    def base(self) -> PreTrainedModel:
        """The base model in the run's dtype, on the CPU unless `run.device_map` says otherwise."""
        return _checkpoint(*self._base_place(), self.run)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer; UserError when it is missing, broken, or another model's."""
        return _tokenizer(*self._base_place())

    def adapter_folder(self, slug: str) -> Path:
        """Folder of an organism's adapter or full checkpoint (trained, local, or fetched)."""
        organism = self.organisms[slug]
        if organism.source is None:
            return self.adapters / slug
        kind, name = model_source(organism.source, f"organisms.{slug}.source", ("path", "hub"))
        if kind == "path":
            return folder_of(name)
        revision = pinned(organism.revision, f"organisms.{slug}.revision")
        return _fetched(name, revision, f"organisms.{slug}.source")

    def _base_place(self) -> tuple[str, dict[str, Any]]:
        """Name of the base for transformers, and where to look; a local one asks no hub."""
        record = self.record()
        if "hub" in record:
            return record["hub"], {"revision": record["revision"]}
        return str(self.base_folder / record["path"]), {"local_files_only": True}

    def _check_shape(self, model: PreTrainedModel, folder: Path) -> None:
        from transformers import AutoConfig

        name, where = self._base_place()
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


def setup_torch(run: Run) -> torch.device:
    """Fixes threads and determinism; returns the torch device of the run."""
    import torch
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")  # peft's own affair
    torch.set_num_threads(run.threads)
    # The vector mathematics library chooses its code on first use; of two threads at once one can
    # take other code, and other last bits in a first pass (4 of 40 processes without this line).
    torch.linspace(0, 1, 64).cos().sin().exp()
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic: Any = torch.utils.deterministic
    deterministic.fill_uninitialized_memory = False  # a debugging aid, a fifth slower
    torch.backends.cuda.matmul.allow_tf32 = False
    if run.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "no CUDA device is visible",
            where="params.yaml: run.device",
            found="cuda",
            hint="set run.device to auto or cpu",
        )
    if run.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(run.device)


def _fetched(name: str, revision: str, key: str) -> Path:
    """A pinned model in the hub's cache, fetched where it is not there yet."""
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.jinja"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:  # huggingface_hub and its HTTP library raise many kinds
        raise UserError(
            "the model cannot be fetched from the hub",
            where=f"params.yaml: {key}",
            found=f"hub:{name}, revision {revision}: {first_line(error)}",
            expected="a network, or the model in the hub's cache on this machine",
            hint=OFFLINE,
        ) from None


def _tokenizer(name: str, where: dict[str, Any]) -> PreTrainedTokenizerBase:
    from transformers import AutoConfig, AutoTokenizer

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


def _checkpoint(name: str, where: dict[str, Any], run: Run) -> PreTrainedModel:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=getattr(torch, run.dtype),
            use_safetensors=True,
            output_loading_info=True,
            device_map=run.device_map,
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


def _merge(
    model: PreTrainedModel, folder: Path, origin: Base, base_sha256: str
) -> tuple[PreTrainedModel, str]:
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
    _check_base(folder, config, origin, base_sha256)
    names = _adapter_names(weights)
    from peft import PeftModel, get_peft_model_state_dict

    try:
        adapted = PeftModel.from_pretrained(model, str(folder))
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            "the adapter does not fit the base model",
            where=str(folder),
            found=" ".join(str(error).split())[:300],
            expected="an adapter trained on " + origin.source,
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


def _check_base(folder: Path, config: Path, origin: Base, base_sha256: str) -> None:
    """An adapter trained here records its base's hash; a foreign one names its base."""
    provenance = folder / PROVENANCE
    if provenance.is_file():
        source, key, expected = provenance, "base_sha256", [base_sha256]
    else:
        source, key = config, "base_model_name_or_path"
        expected = [origin.source.partition(":")[2], *origin.also_known_as]
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
