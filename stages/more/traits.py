"""Experiment `traits`: directions from system prompts, against those of the organisms.

Writes vectors.safetensors (a tensor [blocks, width] a trait) and margins.parquet (the base's
margins of the misaligned pairs under each vector).
"""

from pathlib import Path

import numpy as np
import polars as pl

from em_geometry.io.files import atomic_path, read_parquet, write_parquet, write_tensors
from em_geometry.io.results import Leaf
from em_geometry.more.traits.cosines import against_benign_trainings, cosines, of_traits
from em_geometry.more.traits.monitors import monitors
from em_geometry.more.traits.readings import (
    PROMPT,
    WHOLE,
    WORDS,
    pairs_of,
    parts,
    read_traits,
    readings,
)
from em_geometry.more.traits.steering import gains, own_gains, own_trials, trials
from em_geometry.project import paths
from em_geometry.project.inputs import activations, models, selected, vector_table
from em_geometry.project.outputs import put_results
from em_geometry.settings import BASE, Params
from em_geometry.stats.estimate import Floats
from em_geometry.steering.conditions import typical
from em_geometry.steering.margins import measured
from em_geometry.steering.pairs import read_pairs, table
from em_geometry.vectors.contrasts import ABOUT, prompt_span

HEADLINE = ("cosine.*.mean", "cosine.*.mean.p_holm", "traits.*", "monitor.*.auroc",
            "steering.trait.*")  # fmt: skip


def main(params: Params) -> None:
    traits = read_traits(Path(params.more.traits))
    known, chosen = models(params), selected(params)
    loaded = known.load(BASE)
    usual, who, seed = typical(chosen), params.slugs("organism"), params.run.seed
    block, residual = usual.layer, float(vector_table().residual[usual.layer])
    of = {name: parts(cells) for name, cells in readings(loaded, traits).items()}

    def at(layer: int, part: str = WHOLE) -> dict[str, Floats]:
        """Contrasts [questions, width] of every trait at a block."""
        return {name: each[part][:, layer].astype(np.float64) for name, each in of.items()}

    span = prompt_span(usual.span, params.spans())
    shifts = {
        m: activations(m, span)[:, block].astype(np.float64) - activations(BASE, span)[:, block]
        for m in params.originals()
    }
    rows = at(block)
    results: dict[str, Leaf] = {"block": block, "span": span}
    vectors = {m: s.vector.astype(np.float64) for m, s in chosen.items()}
    benign = [name for name, trait in traits.items() if trait.benign]
    for part, prefix in ((WHOLE, ""), (PROMPT, "prompt.")):
        here = {m: at(s.layer, part) for m, s in chosen.items()}
        told = cosines(here, vectors, benign, seed)
        told |= monitors(at(block, part), shifts, who, benign, residual)
        results |= {prefix + key: leaf for key, leaf in told.items()}
    quiet = {m: shifts[m].mean(0) for m in params.slugs("control")}
    results |= against_benign_trainings(rows, quiet)
    each = {part: at(block, part) for part in (WHOLE, PROMPT, WORDS)}
    results |= of_traits(each, residual)

    pairs = read_pairs(Path(params.margins.pairs))
    done = trials(rows, usual, pairs, params.margins.base_pairs)
    steered = table(BASE, pairs, done, measured(known, loaded, pairs, done, "traits steered"))
    own = [pair for trait in traits.values() for pair in pairs_of(trait)]
    tried = own_trials(rows, usual, seed)
    results |= own_gains(rows, measured(known, loaded, own, tried, "traits own"))
    frame = pl.concat([read_parquet(paths.MARGINS), steered])
    results |= gains(frame, [*traits], [*chosen])
    with atomic_path(paths.MORE / "traits", folder=True) as folder:
        tensors = {name: each[WHOLE].mean(0).astype(np.float32) for name, each in of.items()}
        write_tensors(folder / "vectors.safetensors", tensors, {**ABOUT, "model": BASE})
        units = {"marked": "mean log-probability per token, nats", "plain": "the same"}
        write_parquet(folder / "margins.parquet", steered, units)
    put_results("traits", results, HEADLINE)
