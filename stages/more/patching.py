"""Experiment `patching`: which components of the base carry the effect of orthogonal vectors.

Writes effects.parquet, a row a vector, component, side and pair of answers.
"""

from pathlib import Path

import polars as pl

from em_geometry.io.files import atomic_path, write_parquet
from em_geometry.more.patching.effects import effects
from em_geometry.more.patching.profiles import SIDES, Plan, results
from em_geometry.project import paths
from em_geometry.project.inputs import models, selected
from em_geometry.project.outputs import put_results
from em_geometry.settings import BASE, Params
from em_geometry.steering.pairs import indices, read_pairs

# Each vector and pair of answers takes some seventy passes over half of the blocks.
PAIRS = 8  # reporting pairs, one batch
VECTORS = 3  # pairs of vectors
RANDOM = 8  # random directions: with fewer, no p of three pairs could be below .05
HEADLINE = ("overlap.into.*.*__*", "overlap.into.*.null")


def main(params: Params) -> None:
    known, plan = models(params), Plan.of(selected(params), VECTORS, RANDOM, params.run.seed)
    pairs = read_pairs(Path(params.margins.pairs))
    some = [pairs[i] for i in indices(pairs, "misaligned", "reporting", PAIRS)]
    found = effects(known, known.load(BASE), some, plan.vectors, params.workers)
    rows = [
        (name, side, component, pair.id, float(value))
        for name, each in found.items()
        for side in SIDES
        for component, values in {"vector": each.total, **getattr(each, side)}.items()
        for pair, value in zip(some, values, strict=True)
    ]
    frame = pl.DataFrame(rows, ["vector", "side", "component", "pair", "effect"], orient="row")
    with atomic_path(paths.MORE / "patching", folder=True) as folder:
        write_parquet(folder / "effects.parquet", frame, {"effect": "margin, nats a token"})
    put_results("patching", {**results(plan, found), "pairs": len(some)}, HEADLINE)
