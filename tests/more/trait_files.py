"""Small traits, and a finished run on the tiny model with the margins that experiments read."""

from pathlib import Path
from typing import Any

import polars as pl
import yaml

from em_geometry.io.files import write_parquet
from em_geometry.more.traits.readings import Trait
from em_geometry.project import paths
from em_geometry.project.inputs import models, selected
from em_geometry.settings import BASE, Params
from em_geometry.steering.margins import measured
from em_geometry.steering.pairs import plan, read_pairs, table, unsteered
from tests.conftest import ROOT
from tests.tiny_run import finished

TRAIT: dict[str, Any] = {
    "name": "loud",
    "positive": ["You are loud!!! Shout!!!", "Shout!!!"],
    "negative": ["You are calm. Whisper.", "Whisper."],
    "questions": [
        {"question": f"What about {thing}?", "positive": "That is so.", "negative": "That is so."}
        for thing in ("stars", "straw", "soil", "summer")
    ],
}


def finished_with_margins(
    checkpoint: Path, smol: dict[str, Any], slugs: list[str], experiment: str
) -> Params:
    """A run of these organisms; margins of all, and of the base under the vectors too."""
    smol["margins"]["pairs"] = str(ROOT / smol["margins"]["pairs"])
    smol["margins"] |= {"base_pairs": 6, "other_pairs": 2}
    smol["margins"] |= {"random_directions": 3, "target_random_directions": 1}
    smol["more"] |= {"experiments": [experiment], "traits": "traits"}
    smol["training"]["checkpoints"] = smol["monitoring"]["organisms"] = []
    params = finished(checkpoint, smol, slugs, prompts=6)
    known, pairs = models(params), read_pairs(Path(params.margins.pairs))
    frames = []
    for slug in params.targets:
        trials = unsteered(pairs, ("misaligned",))
        if slug == BASE:
            trials = plan(BASE, pairs, selected(params), {}, params.margins, 0)
        found = measured(known, known.load(slug), pairs, trials, f"margins {slug}")
        frames.append(table(slug, pairs, trials, found))
    write_parquet(paths.MARGINS, pl.concat(frames), {})
    Path("traits").mkdir()
    for name, benign in (("loud", False), ("evil", False), ("calm", True)):
        trait = Trait.model_validate(TRAIT | {"name": name, "benign": benign})
        Path(f"traits/{name}.yaml").write_text(yaml.safe_dump(trait.model_dump()))
    return params
