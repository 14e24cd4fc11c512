"""Organisms trained again, with other seeds or data, and measured: resumable, one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from em_geometry.hashing import file_sha256, value_sha256
from em_geometry.io.journal import Journal
from em_geometry.models.load import Models
from em_geometry.settings import Recipe

Unit = tuple[str, int]  # an organism, and which of its trainings


def retrained(
    name: str,
    models: Models,
    recipes: Mapping[str, Recipe],
    units: Sequence[Unit],
    blocks: Mapping[str, int],
    fixed: Mapping[str, Any],
    train: Callable[[str, int, str], Any],
) -> dict[Unit, Any]:
    """What each training gave, JSON-able; what stands in the journal `name` is not done again.

    Args:
        recipes: laboratory -> recipe.
        blocks: organism -> block that it is measured at.
        fixed: what else decides a result, JSON-able: code version, prompts, settings.
        train: trains and measures one unit; also given the hash of all that decides it.
    """
    common = dict(fixed) | {
        "base": models.record()["sha256"],
        "run": models.run.model_dump(),
        "system_prompt": models.system_prompt,
    }

    def key(unit: Unit) -> str:
        organism = models.organisms[unit[0]]
        recipe = recipes[organism.lab].model_dump()
        texts = file_sha256(Path(organism.data)), organism.max_examples
        return value_sha256([common, unit, recipe, texts, blocks[unit[0]]])

    def work(batch: Sequence[Unit]) -> list[Any]:
        return [train(*unit, key(unit)) for unit in batch]

    with Journal(name) as journal:
        found = journal.fill(name, [[unit] for unit in units], key, work)
    return {unit: found[key(unit)] for unit in units}
