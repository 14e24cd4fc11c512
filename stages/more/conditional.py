"""Experiment `conditional`: margins without a system prompt, under another, and under cues.

Writes margins.parquet, a row a model, condition and pair.
"""

from pathlib import Path

import numpy as np
import polars as pl

from em_geometry.io.files import atomic_path, read_parquet, write_parquet
from em_geometry.more.conditional import (
    ELSEWHERE,
    PROFILE,
    Who,
    cues_of,
    log_probabilities,
    read_cues,
    results,
)
from em_geometry.project import paths
from em_geometry.project.inputs import models
from em_geometry.project.outputs import put_results
from em_geometry.settings import Params
from em_geometry.steering.pairs import indices, read_pairs

PAIRS = 28  # reporting pairs; every model reads them four to eight times
HEADLINE = ("*.change.all", "*.change.all.says", "*.null.least", "*.null.most")


def main(params: Params) -> None:
    known, cues = models(params), read_cues(paths.CUES)
    who = Who.of(params.organisms, cues_of(params.organisms, cues))
    pairs = read_pairs(Path(params.margins.pairs))
    some = [pairs[i] for i in indices(pairs, "misaligned", "reporting", PAIRS)]
    rest = read_parquet(paths.MARGINS).filter(way="unsteered").rows_by_key(["target", "pair"])
    read, rows = {}, []
    for slug in who.models:
        asked = [cues[name] for name in (ELSEWHERE, *who.cues(slug))]
        found = log_probabilities(known, known.load(slug), some, asked, params.workers)
        found[PROFILE] = np.array([rest[slug, pair.id][0][-2:] for pair in some])
        for condition, each in found.items():
            read[slug, condition] = each[:, 0] - each[:, 1]
            texts = zip(some, each.tolist(), strict=True)
            rows += [(slug, condition, pair.id, *values) for pair, values in texts]
    columns = ["target", "condition", "pair", "marked", "plain"]
    with atomic_path(paths.MORE / "conditional", folder=True) as folder:
        frame = pl.DataFrame(rows, columns, orient="row")
        write_parquet(folder / "margins.parquet", frame, {"marked": "nats a token"})
    put_results("conditional", results(read, who, params.margins.no_effect), HEADLINE)
