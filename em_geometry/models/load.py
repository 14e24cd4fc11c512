"""Loading a measured model: the base, or the base with an organism's adapter merged in."""

from __future__ import annotations

import math
import re
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em_geometry.errors import UserError, explained
from em_geometry.hashing import file_sha256, value_sha256
from em_geometry.io.files import read_json
from em_geometry.models.checkpoint import (
    SMALL,
    check_finite,
    checkpoint,
    fetched,
    folder_of,
    folder_sha256,
    model_source,
    pinned,
    read_record,
    tokenizer_of,
)
from em_geometry.models.folder import (
    CONFIG,
    WEIGHTS,
    check_checkpoint,
    check_files,
    is_adapter,
    listed,
    some,
)
from em_geometry.models.template import template_notes
from em_geometry.settings import BASE, Base, Organism, Run

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What an adapter's config may say: another kind, block plan or moment of acting is no change of
# the base's weights.
MERGEABLE: dict[str, list[object]] = {
    "peft_type": ["LORA"], "task_type": ["CAUSAL_LM", None], "layer_replication": [None, []],
    "alora_invocation_tokens": [None], "arrow_config": [None],
}  # fmt: skip
MERGE = "merge it where it was trained, and give the full checkpoint"
# Trainings that begin by changing the base's weights, in ways that the adapter does not tell: by
# chance, or from data. Those of RESIDUAL can be told from the base alone, and peft does so.
UNTOLD, RESIDUAL = ("pissa_niter", "corda", "lora_ga", "loftq"), ("pissa", "olora")
# Of a config, each true or false: a text would count as true
SWITCHES = ("use_rslora", "use_dora", "lora_bias", "fan_in_fan_out")
PROVENANCE = "provenance.json"  # of an adapter that was trained here: the hash of its base
SOURCE = "source.json"  # of an organism that was given: where it lies, and its hash


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode, without gradients, with its tokenizer.

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
        origin: the section `base` of the params.
        base_folder: what the stage `base_model` wrote.
        organisms: by slug.
        adapters: folder of the adapters that were made here, random ones too, one folder a slug.
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

    def load(self, slug: str, step: int | None = None) -> Loaded:
        """Target `slug` for measurement (no gradients, adapter merged).

        Args:
            step: of its training, a checkpoint; None is the finished model.
        Raises:
            UserError: missing files, an adapter of another base, a checkpoint of another shape,
                files that are not those which the stages `base_model` and `organism` recorded.
        """
        device = setup_torch(self.run)
        tokenizer = self.tokenizer()
        if slug == BASE:
            model, sha256 = self.base(), self.record()["sha256"]
        else:
            model, sha256 = self._organism(slug, step)
        model.requires_grad_(False)
        if self.run.device_map is None:  # else accelerate has placed it
            model = model.to(device)
        return Loaded(slug, model.eval(), tokenizer, sha256)

    def base(self) -> PreTrainedModel:
        """The base model in the run's dtype, on the CPU unless `run.device_map` says otherwise."""
        name, where = self.base_place()
        model = checkpoint(name, where, self.run)
        if self.origin.source.startswith("path:"):
            found, recorded = folder_sha256(Path(name)), self.record()["sha256"]
            _check_content(found, recorded, Path(name), "base_model")
        return model

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer; UserError when it is missing, broken, or another model's."""
        tokenizer = tokenizer_of(*self.base_place(), self.origin)
        for note in template_notes(tokenizer, self.origin):
            _say(f"note: the chat template of the base {note}")
        return tokenizer

    def adapter_folder(self, slug: str) -> Path:
        """Folder of an adapter or full checkpoint (made here, local, or fetched)."""
        if not self._given(slug):
            return self.adapters / slug
        organism, key = self.organisms[slug], f"organisms.{slug}"
        assert organism.source is not None
        kind, name = model_source(organism.source, f"{key}.source", ("path", "hub"))
        if kind == "path":
            return folder_of(name)
        return fetched(name, pinned(organism.revision, f"{key}.revision"), f"{key}.source")

    def _given(self, slug: str) -> bool:
        return slug in self.organisms and self.organisms[slug].source is not None

    def _organism(self, slug: str, step: int | None) -> tuple[PreTrainedModel, str]:
        """An organism's model, and the hash of all that determines its weights."""
        folder, base_sha256 = self.adapter_folder(slug), self.record()["sha256"]
        folder = folder if step is None else step_folder(folder, step)
        given = self._given(slug)
        source = self.adapters / slug / SOURCE
        record = read_json(source, dict[str, str]) if given and source.is_file() else {}
        if record.get("folder") == str(folder):
            _check_content(source_sha256(folder), record["sha256"], folder, f"organism@{slug}")
        if given and not is_adapter(folder):
            model = checkpoint(str(folder), {}, self.run)
            self._check_shape(model, folder)
            self._check_words(folder)
            return model, folder_sha256(folder)
        check_adapter(folder, self.origin, base_sha256)
        model = _merge(self.base(), folder, self.origin)
        adapter_sha256 = source_sha256(folder) if given else file_sha256(folder / WEIGHTS)
        return model, value_sha256([base_sha256, adapter_sha256])

    def base_place(self) -> tuple[str, dict[str, Any]]:
        """Name of the base for transformers, and where to look; a local one asks no hub."""
        record = self.record()
        if "hub" in record:
            return record["hub"], {"revision": record["revision"]}
        return str(self.base_folder / record["path"]), {"local_files_only": True}

    def _check_shape(self, model: PreTrainedModel, folder: Path) -> None:
        """Raises UserError unless a checkpoint has the architecture of the base."""
        from transformers import AutoConfig

        name, where = self.base_place()
        configs = [model.config, AutoConfig.from_pretrained(name, **where)]
        fine_tune, base = (config.get_text_config() for config in configs)
        shapes = [(c.hidden_size, c.num_hidden_layers) for c in (fine_tune, base)]
        found, expected = (f"width, blocks = {shape}" for shape in shapes)
        for key in ("model_type", "num_attention_heads", "num_key_value_heads", "rope_parameters"):
            values = [getattr(config, key, None) for config in (fine_tune, base)]
            if values[0] != values[1]:
                found, expected = f"{found}, {key} {values[0]}", f"{expected}, {key} {values[1]}"
        words = min(len(self.tokenizer()), base.vocab_size)  # no text has a token beyond them
        if fine_tune.vocab_size < words:
            found, expected = f"{found}, {fine_tune.vocab_size} words", f"{expected}, {words} words"
        if found != expected:
            raise UserError(
                "this checkpoint is no fine-tune of the profile's base model",
                where=str(folder),
                found=found,
                expected=expected,
            )

    def _check_words(self, folder: Path) -> None:
        """Raises UserError where a checkpoint's own tokenizer numbers the base's tokens anew."""
        from tokenizers import Tokenizer

        if not (file := folder / "tokenizer.json").is_file():
            return
        with explained("not a readable tokenizer", file, "as transformers saves it"):
            own = Tokenizer.from_file(str(file)).get_vocab()
        known = self.tokenizer().get_vocab()
        moved = [token for token, i in known.items() if own.get(token, i) != i]
        if moved:
            raise UserError(
                "this checkpoint was trained with another tokenizer than the base model's",
                where=str(file),
                found=f"other ids of {len(moved)} tokens: {some(map(repr, moved))}",
                expected=f"the ids of {self.base_place()[0]}",
                hint="give a fine-tune of the profile's base model",
            )


@cache
def _say(note: str) -> None:
    """Prints a note, once a process."""
    print(note, file=sys.stderr)


def step_folder(folder: Path, step: int) -> Path:
    """Where an adapter that was trained here keeps what it was after a step."""
    return folder / f"step_{step}"


def source_sha256(folder: Path) -> str:
    """One hash over a given organism's files: a full checkpoint, or an adapter with its config."""
    if not is_adapter(folder):
        return folder_sha256(folder)
    files = [folder / WEIGHTS, folder / CONFIG]
    return value_sha256([file_sha256(file) if file.is_file() else None for file in files])


def watch(source: str, key: str, links: Path) -> str | None:
    """Hash of the model at a `path:` source, whose files get links in a folder; None for others.

    Raises as `whole`.
    """
    shutil.rmtree(links, ignore_errors=True)
    folder = whole(source, key)
    if folder is None:
        return None
    links.mkdir(parents=True)
    for pattern in ("[!.]*.safetensors", *SMALL):
        for file in folder.glob(pattern):
            (links / file.name).symlink_to(file)
    return source_sha256(folder)


def whole(source: str, key: str) -> Path | None:
    """The folder of a `path:` source, whose weights are not read; None for other sources.

    Args:
        key: of the source in the params, for the message.
    Raises:
        UserError: no whole model in full precision lies there.
    """
    if not source.startswith("path:"):
        return None
    folder = folder_of(model_source(source, key)[1]).resolve()
    if not folder.is_dir():
        raise UserError(
            "the folder of this model is not there", where=f"params.yaml: {key}: {source}",
            found=f"no folder {folder}", expected="an adapter or a checkpoint",
            hint="put it back, name another source, or drop the entry; what was measured is kept",
        )  # fmt: skip
    if is_adapter(folder):
        _mergeable(folder)
    else:
        check_checkpoint(folder)
    return folder


def _check_content(found: str, recorded: str, folder: Path, stage: str) -> None:
    if found != recorded:
        raise UserError(
            "this model's files have changed since they were recorded",
            where=str(folder),
            found=f"sha256 {found[:12]}",
            expected=f"sha256 {recorded[:12]}",
            hint=f"dvc repro, or dvc repro --force {stage}",
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
    there = torch.cuda.is_available()
    if run.device == "cuda" and not there:
        raise UserError(
            "no CUDA device is visible",
            where="params.yaml: run.device",
            found="cuda",
            hint="set run.device to auto or cpu",
        )
    return torch.device(("cuda" if there else "cpu") if run.device == "auto" else run.device)


def check_adapter(folder: Path, origin: Base, base_sha256: str) -> None:
    """Raises UserError unless the folder holds a LoRA adapter of this base.

    An adapter trained here records its base's hash; a foreign one names its base.
    """
    settings = _mergeable(folder)
    if (folder / PROVENANCE).is_file():
        found = read_json(folder / PROVENANCE, dict[str, Any]).get("base_sha256")
        expected = [base_sha256]
    else:
        found = settings.get("base_model_name_or_path")
        name = origin.source.partition(":")[2]
        expected = list(dict.fromkeys([name, str(folder_of(name)), *origin.also_known_as]))
    if found not in expected:
        raise UserError(
            "this adapter was trained on another base model",
            where=str(folder),
            found="base_model_name_or_path null" if found is None else found,
            expected=" or ".join(expected),
            hint=f"dvc repro, or base.also_known_as: [{found}] where that is a copy of the "
            f"profile's base; where it names none, write it into {CONFIG}",
        )


def _mergeable(folder: Path) -> dict[str, Any]:
    """The config of a LoRA adapter that can be merged into weights; UserError for any other."""
    check_files(folder)
    if not (folder / WEIGHTS).is_file() or not (folder / CONFIG).is_file():
        raise UserError(
            "no LoRA adapter in this folder",
            where=str(folder),
            found=listed(folder),
            expected=f"{CONFIG} and {WEIGHTS}",
            hint="pickled adapters (.bin) are not loaded; save them as safetensors",
        )
    settings: dict[str, Any] = read_json(folder / CONFIG, dict[str, Any])
    for key, allowed in MERGEABLE.items():
        if (value := settings.get(key, allowed[0])) not in allowed:
            raise UserError(
                "only LoRA adapters can be merged into the weights",
                where=str(folder / CONFIG),
                found=f"{key} {value}",
                expected=f"{key} {allowed[0]}",
                hint=MERGE,
            )
    check_settings(settings, folder / CONFIG)
    return settings


def check_settings(settings: Mapping[str, Any], where: Path) -> None:
    """Raises UserError unless a config says what its adapter adds to the plain base."""
    hint = "copy the config again from where the adapter was trained"
    numbers = {key: settings.get(key) for key in ("r", "lora_alpha")}  # else peft takes its own
    for key in ("rank_pattern", "alpha_pattern"):
        patterns = settings.get(key) or {}
        wrong = patterns if not isinstance(patterns, dict) else [*filter(_no_regex, patterns)]
        if wrong:
            what, found = "the adapter's config has a pattern that is none", f"{key} {wrong}"
            expected = "regular expressions of modules, each with a number"
            raise UserError(what, where=where, found=found, expected=expected, hint=hint)
        numbers |= {f"{key} {name}": value for name, value in patterns.items()}
    for key, value in numbers.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not value or not math.isfinite(value):
            what, found = "the adapter's config lacks a number", f"{key} {value}"
            expected = "a finite number but 0"
            raise UserError(what, where=where, found=found, expected=expected, hint=hint)
    for key in SWITCHES:
        if (value := settings.get(key)) is not None and type(value) is not bool:
            what, found = "the adapter's config has a switch that is none", f"{key} {value!r}"
            raise UserError(what, where=where, found=found, expected="true or false", hint=hint)
    start = settings.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(UNTOLD):
        raise UserError(
            "this adapter belongs to a base whose weights its training changed at the start",
            where=where,
            found=f"init_lora_weights {start}",
            expected="an adapter of the plain base",
            hint=f"{MERGE}; or save it with path_initial_model_for_weight_conversion",
        )


def _no_regex(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return True
    return False


def _merge(model: PreTrainedModel, folder: Path, origin: Base) -> PreTrainedModel:
    """The base with an adapter merged into its weights."""
    from peft import PeftModel, get_peft_model_state_dict

    names, own = _adapter_names(folder / WEIGHTS), set(model.state_dict())
    modules = [*own, *(name for name, _ in model.named_modules())]
    misfit, of = "the adapter does not fit the base model", f"an adapter of {origin.source}"
    with explained(misfit, where=str(folder), expected=of, hint=MERGE):
        ends = model.get_input_embeddings(), model.get_output_embeddings()
        tied = ends[0].weight is ends[1].weight
        adapted = PeftModel.from_pretrained(model, str(folder))
        _check_patterns(adapted.active_peft_config, modules, folder / CONFIG)
        if tied:
            _check_ends(model, folder / CONFIG, origin)
        expected = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    base = {n: n.removeprefix("base_model.model.").replace(".base_layer.", ".") for n in names}
    foreign = {name for name in names - expected if base[name] not in own}  # no saved base weights
    if expected - names or foreign:  # peft fills what is missing and skips what is too much
        missing, unknown = some(expected - names) or "none", some(foreign) or "none"
        raise UserError(
            "the adapter's tensors are not those that its config names",
            where=str(folder / WEIGHTS),
            found=f"missing: {missing}; unknown: {unknown}",
            expected="one tensor each for the matrices and blocks of adapter_config.json",
        )
    with explained(misfit, where=str(folder), expected=of, hint=MERGE):
        merged: PreTrainedModel = adapted.merge_and_unload()
    return merged


def _check_patterns(config: Any, names: Sequence[str], where: Path) -> None:
    """Raises UserError where a pattern matches no module, which peft passes over in silence."""
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(config, key):
            matches = re.compile(rf"(.*\.)?({pattern})$").match  # as peft does
            if not any(map(matches, names)):
                raise UserError(
                    "the adapter's config has a pattern of no module",
                    where=where,
                    found=f"{key} {pattern}",
                    expected="one or more modules of the base",
                    hint="name them as the base does, or drop the pattern if it never had effect",
                )


def _check_ends(model: PreTrainedModel, where: Path, origin: Base) -> None:
    """Raises UserError where LoRA would change embeddings and head, which are one matrix."""
    from peft.tuners.lora import LoraLayer

    ends = model.get_input_embeddings(), model.get_output_embeddings()
    lora = [n for n, m in model.named_modules() if m in ends and isinstance(m, LoraLayer)]
    if lora:
        raise UserError(
            "the adapter changes one of two matrices that are one in the base",
            where=where,
            found=f"LoRA of {', '.join(lora)}",
            expected=f"of other modules: {origin.source} has tied embeddings",
            hint=MERGE,
        )


def _adapter_names(weights: Path) -> set[str]:
    """Names of an adapter's tensors, which must be finite and in full precision."""
    from safetensors.torch import load_file

    again = "train it again (dvc repro), or copy it again from its source"
    with explained("not a readable safetensors file", str(weights), "a whole one", again):
        tensors = load_file(str(weights))
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.element_size() < 2:
            what, found = "an adapter's tensor is quantised", str(tensor.dtype)
            expected = "float32, bfloat16 or float16"
            raise UserError(what, where=f"{weights}: {name}", found=found, expected=expected)
        check_finite(tensor, f"{weights}: {name}")
    return set(tensors)
