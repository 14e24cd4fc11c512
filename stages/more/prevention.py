"""Experiment `prevention`: organisms trained again with a vector added or taken out meanwhile.

Writes margins.parquet (a row an answer pair and way) and chats.parquet (a row an unseen chat of
the organism's own file, with its loss, and a benign chat, with its KL to the base).
"""

from pathlib import Path

import numpy as np
import polars as pl

from em_geometry.hashing import stream_key
from em_geometry.io.files import atomic_path, read_parquet, write_parquet
from em_geometry.io.results import Leaf
from em_geometry.models.load import Loaded
from em_geometry.models.train import read_split
from em_geometry.more.prevention.prevented import as_tables, of_organism, outcomes
from em_geometry.more.prevention.trainings import Case, Tests, held_out, measured, repeated
from em_geometry.project import paths
from em_geometry.project.inputs import models, selected
from em_geometry.project.outputs import put_results
from em_geometry.settings import BASE, Params
from em_geometry.stats.estimate import Floats
from em_geometry.steering.margins import rows_of
from em_geometry.steering.pairs import indices, read_pairs
from em_geometry.vectors.contrasts import recipe_controls

HEADLINE = ("status", "*.*.margin", "*.*.prevented", "*.*.skill_kept", "*.*.kl", "*.*.says")


def case_of(params: Params, slug: str, loaded: Loaded) -> Case:
    """An organism as its own training found it, with its vector."""
    own, vector = params.organisms[slug], selected(params)[slug]
    chat = loaded.tokenizer, params.base.system_prompt
    examples, _ = read_split(Path(own.data), *chat, own.max_examples)
    key = stream_key(params.run.seed, "train", slug, own.seed)  # as its own training draws
    acting = vector.vector, vector.layer, vector.norm
    return Case(slug, examples, params.recipes[own.lab], key, *acting)


def main(params: Params) -> None:
    known, organisms = models(params), params.organisms
    loaded, controls = known.load(BASE), recipe_controls(organisms)
    pairs = read_pairs(Path(params.margins.pairs))
    some = indices(pairs, "misaligned", "reporting", params.margins.base_pairs)
    names = [pairs[i].id for i in some]
    rows = rows_of([pairs[i] for i in some], loaded, known.system_prompt)
    frame = read_parquet(paths.MARGINS).filter(way="unsteered", kind="misaligned")
    margin = pl.col("marked") - pl.col("plain")

    def margins(slug: str) -> Floats:
        """Margins [pairs] of a model that is there already."""
        own = dict(frame.filter(target=slug).select("pair", margin).iter_rows())
        return np.array([own[name] for name in names])

    slugs = repeated(organisms)
    twice = params.repeats().items()
    changes = np.array([(margins(again) - margins(first)).mean() for again, first in twice])
    cases = [case_of(params, slug, loaded) for slug in slugs]
    quiet = next((organisms[slug] for slug in params.slugs("control")), None)
    tests = {}
    for slug in slugs:
        assert quiet is not None  # `repeated` names none without a control
        chats = [held_out(each, loaded, known.system_prompt) for each in (organisms[slug], quiet)]
        tests[slug] = Tests(rows, *chats)
    found = measured(known, cases, tests, params.run.seed)
    each = {}
    for slug in slugs:
        ways = {way: value for (m, way), value in found.items() if m == slug}
        each[slug] = of_organism(ways, margins(controls[slug]), changes)
    why = "not measurable: no organism was trained here beside a control of its recipe"
    results: dict[str, Leaf] = {
        "status": "ok" if slugs else why,
        **outcomes(each, changes.size > 0),
    }
    results["retraining"] = float((changes**2).mean() ** 0.5) if changes.size else "no repeats"
    with atomic_path(paths.MORE / "prevention", folder=True) as folder:
        for name, table in as_tables(found, names).items():
            write_parquet(folder / f"{name}.parquet", table, {"units": "nats a token"})
    put_results("prevention", results, HEADLINE)
