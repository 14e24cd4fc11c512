"""Judged answers of organisms while a direction is taken out of the output of every block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from em_geometry.activations.prompts import Question
from em_geometry.hashing import value_sha256
from em_geometry.io.results import Leaf
from em_geometry.models.load import Loaded, Models
from em_geometry.more.correction import corrected
from em_geometry.settings import Sampling
from em_geometry.stats.estimate import Estimate
from em_geometry.steering.answers import respond
from em_geometry.steering.conditions import UNSTEERED, Condition, Vector
from em_geometry.steering.margins import ablated_everywhere
from em_geometry.transfer.rate_table import Table

if TYPE_CHECKING:
    import polars as pl

OURS = ("own", "transfer")  # sources that nulls are compared with


def answers(
    models: Models,
    loaded: Loaded,
    vectors: Mapping[str, Vector],
    questions: Sequence[Question],
    sampling: Sampling,
    samples: int,
) -> pl.DataFrame:
    """Answers under the ablation of each vector, a row each; `source` is the vector's name.

    Sampled in this process, whatever the workers: the hooks are on this model.

    Args:
        vectors: unit vectors [width] by name.
        samples: answers a question and vector.
    """
    import polars as pl

    frames = []
    for name, vector in vectors.items():
        digest = value_sha256([loaded.sha256, "without", vector.astype(np.float32).tolist()])
        how = questions, sampling, f"ablated {loaded.slug} {name}"
        with ablated_everywhere(loaded.model, vector):
            ablated = replace(loaded, sha256=digest)
            frames.append(respond(models, ablated, [Condition(name, samples=samples)], {}, *how))
    return pl.concat(frames)


def judged_results(
    tables: Mapping[str, Table], organisms: Sequence[str], no_effect: float
) -> dict[str, Leaf]:
    """Rates of all organisms together, and what each ablation takes from them, by dotted key.

    Args:
        tables: rate -> its table (percent, points for a mean score): each organism unsteered, and
            under every source that was taken out ("random" and "benign" are nulls of the others).
        no_effect: points; what lies within it of 0 counts as no effect.
    """
    found: dict[str, Leaf] = {}
    for rate, table in tables.items():
        sources = sorted({c.partition("|")[2] for c in table.matrix.conditions})
        means = {s: np.mean([table.rate(o, s) for o in organisms], axis=0) for s in sources}
        found |= {f"{rate}.{s}": table.estimate(m).within(0.0, 100.0) for s, m in means.items()}
        fallen: dict[str, Estimate] = {}
        for source in (s for s in sources if s != UNSTEERED):
            fall = means[UNSTEERED] - means[source]
            fallen[f"{rate}.{source}.fall"] = table.estimate(fall)
            share = table.ratio(fall, means[UNSTEERED])
            if share.low == share.high:  # all of it, in every question: no spread says how sure
                share = replace(share, low=None, high=None)
            found[f"{rate}.{source}.share"] = share
            for null in (n for n in ("random", "benign") if n in means and source in OURS):
                beyond = table.estimate(means[null] - means[source])
                fallen[f"{rate}.{source}.beyond_{null}"] = beyond
        df = len(table.matrix.without) - 1
        found |= fallen
        found |= corrected(fallen, no_effect, df)
    return found
