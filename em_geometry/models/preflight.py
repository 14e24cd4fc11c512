"""Before the first download: access, pinned revisions, disk and memory, in one message."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em_geometry.errors import UserError, first_line
from em_geometry.models.checkpoint import COMMIT, HUB_ID
from em_geometry.settings import Recipe, Run

if TYPE_CHECKING:
    from em_geometry.models.load import Models

GB = 1e9
CONFIGS = ("config.json", "adapter_config.json")  # one of them is in every model's folder
TOKEN = "HF_TOKEN"  # noqa: S105 - the variable's name


def check_steps(slug: str, recipe: Recipe, answers: int, checkpoints: Sequence[int]) -> None:
    """Raises UserError where a training on so many answers ends before its last checkpoint."""
    steps = recipe.steps(answers)
    if checkpoints and max(checkpoints) >= steps:
        raise UserError(
            "a training ends before its last checkpoint",
            where=f"params.yaml: training.checkpoints, organism {slug}",
            found=f"{max(checkpoints)}; {answers} answers to learn make {steps} steps",
            expected=f"checkpoints below {steps}",
            hint="more chats (a higher max_examples, more epochs), or earlier checkpoints",
        )


def hub_models(models: Models) -> Iterator[tuple[str, str, str | None]]:
    """(key in the params, hub id, revision) of every model that comes from the hub."""
    entries = {"base": models.origin} | {f"organisms.{k}": o for k, o in models.organisms.items()}
    for key, entry in entries.items():
        kind, _, name = (entry.source or "").partition(":")
        if kind == "hub":
            yield key, name, entry.revision


def ask_hub(name: str, revision: str | None) -> Any:
    """What the hub says about a model, with the sizes of its files."""
    from huggingface_hub import HfApi

    return HfApi().model_info(name, revision=revision, files_metadata=True, timeout=20)


def cached(name: str, revision: str | None) -> bool:
    """Whether the hub's cache on this machine has this revision, as on a node without network."""
    from huggingface_hub import try_to_load_from_cache

    kept = (try_to_load_from_cache(name, f, revision=revision) for f in CONFIGS)
    return revision is not None and any(isinstance(path, str) for path in kept)


def preflight(
    profile: str,
    models: Models,
    ask: Callable[[str, str | None], Any] = ask_hub,
    free_disk: int | None = None,
    free_memory: int | None = None,
) -> None:
    """Checks everything that a hub profile needs; nothing for other profiles.

    Raises:
        UserError: all problems at once, each with what to do.
    """
    problems: list[str] = []
    sizes: list[int] = []
    for key, name, revision in hub_models(models):
        if not HUB_ID.fullmatch(name):
            problems.append(f"{key}.source names no model: set hub:<owner/name>, or drop the entry")
            continue
        loose = revision is None or not COMMIT.fullmatch(revision)
        try:
            info = ask(name, revision)
        except Exception as error:  # huggingface_hub raises many kinds, all about this model
            if cached(name, revision):
                continue
            problems.append(f"{key}: {_reason(error, name)}")
            if loose:
                problems.append(f"{key}.revision is not pinned: {revision!r} is no commit id")
            continue
        if loose:
            problems.append(f"{key}.revision is not pinned; the newest commit is {info.sha}")
        files = [f.size or 0 for f in info.siblings if f.rfilename.endswith(".safetensors")]
        if not files:
            problems.append(f"{key}: {name} has no safetensors (pickled weights are not loaded)")
        sizes.append(sum(files))
    if sizes:
        problems += _room(sizes, models.run, free_disk, free_memory)
    if problems:
        raise UserError(
            "this profile cannot run yet",
            where=f"profile {profile}",
            found="\n            ".join(problems),
            hint="put these right, then run again; nothing was downloaded",
        )


def _reason(error: Exception, name: str) -> str:
    kind = type(error).__name__
    if "Gated" in kind or "401" in str(error) or "403" in str(error):
        token = "with this token" if os.environ.get(TOKEN) else f"and {TOKEN} is not set"
        licence = f"accept its licence on the model's page, export {TOKEN}"
        return f"no access to {name} {token}: {licence}"
    if "NotFound" in kind:
        return f"no model or revision of this name: {name}"
    return f"the hub cannot be asked about {name}: {first_line(error)[:120]}"


def _room(
    sizes: list[int], run: Run, free_disk: int | None, free_memory: int | None
) -> Iterator[str]:
    from huggingface_hub.constants import HF_HUB_CACHE

    total, largest = sum(sizes), max(sizes)
    place = Path(HF_HUB_CACHE)
    while not place.exists():
        place = place.parent
    disk = shutil.disk_usage(place).free if free_disk is None else free_disk
    if disk < 1.1 * total:
        yield f"{total / GB:.0f} GB to download, {disk / GB:.0f} GB free in {place}"
    if said := crowded(largest, run, free_memory):
        yield said


def crowded(size: int, run: Run, free: int | None = None) -> str:
    """That a model of so many bytes does not fit into memory; "" where it does."""
    memory = _free_memory(run) if free is None else free
    if memory >= 1.2 * size:  # a fifth for activations and caches at the smallest batch
        return ""
    return f"a model of {size / GB:.0f} GB does not fit into {memory / GB:.0f} GB of memory"


def _free_memory(run: Run) -> int:
    """Free bytes of the device that the run uses (the machine's own when there is no GPU)."""
    if run.device != "cpu":
        import torch

        if torch.cuda.is_available():
            return sum(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count()))
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
