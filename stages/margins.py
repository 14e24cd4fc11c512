"""Stage `margins`: what organisms and vectors do to the margins of authored answer pairs.

Writes data/margins.parquet, one row a pair and what was done to the model that read it.
"""

from pathlib import Path

import polars as pl

from em_geometry.io.files import write_parquet
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import models, selected, vector_table
from em_geometry.project.outputs import put_results
from em_geometry.settings import Params
from em_geometry.steering.margins import measured
from em_geometry.steering.pairs import KINDS, plan, read_pairs, table, unsteered
from em_geometry.transfer.outcomes import Margins, Who, outcomes
from em_geometry.vectors.contrasts import recipe_controls
from em_geometry.vectors.sweep import other_vectors

HEADLINE = ("organism.*.*", "transfer.all_organisms", "transfer.median_half_width")
OF_VECTORS = ("vector.{}.beyond_random", "vector.{}.random_95")  # of each organism


@stage
def main(params: Params) -> None:
    known, organisms, repeats = models(params), params.organisms, params.repeats()
    chosen, steered = selected(params), params.margin_targets()
    pairs = read_pairs(Path(params.margins.pairs))
    others = other_vectors(vector_table(), chosen, organisms, repeats)
    frames = []
    for slug in params.targets:
        loaded = known.load(slug)
        once = slug in params.answering()  # of other trainings, the first kind is enough
        trials = unsteered(pairs, KINDS if once else KINDS[:1])
        if slug in steered:
            how = params.margins, params.run.seed, params.named_pairs()
            trials = plan(slug, pairs, chosen, others, *how)
        found = measured(known, loaded, pairs, trials, f"margins {slug}", params.workers)
        frames.append(table(slug, pairs, trials, found))
    frame = pl.concat(frames)
    units = {"marked": "mean log-probability per token, nats", "plain": "the same"}
    write_parquet(paths.MARGINS, frame, units)
    who = Who(
        params.slugs("organism"), params.slugs("control"), steered, recipe_controls(organisms),
        repeats, params.labs(), params.clusters(),
    )  # fmt: skip
    headline = [*HEADLINE, *(f"transfer.{s}__{t}" for s, t in params.named_pairs())]
    headline += [key.format(slug) for slug in who.organisms for key in OF_VECTORS]
    put_results("margins", outcomes(Margins.of(frame), who, params.margins.no_effect), headline)
