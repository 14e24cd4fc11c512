"""Stage `seeds`: organisms trained again with other seeds.

It is frozen in dvc.yaml, so that `dvc repro` leaves its last result: `make seeds` runs it.
"""

import numpy as np

from em_geometry.errors import UserError
from em_geometry.io.results import Leaf
from em_geometry.project.command import stage
from em_geometry.project.inputs import models, seeds_reading, selected, vector_table
from em_geometry.project.outputs import put_results
from em_geometry.settings import Params
from em_geometry.vectors.seeds import CONTRAST, SPAN, seed_results, train_again

HEADLINE = ("profile", "seeds", "angle_deg.*", "battery.cluster_angle.*.mean",
            "battery.verdict.count.*", "replication.*.across_seeds.mean")  # fmt: skip


def check(params: Params) -> None:
    """Raises UserError unless two or more organisms that are trained here are to be seeded."""
    chosen = params.seeds.organisms
    trained = [m for m in params.slugs("organism") if params.organisms[m].source is None]
    if len(set(chosen)) < 2 or not set(chosen) <= set(trained):
        raise UserError(
            "seeds need two or more organisms that are trained here",
            where="params.yaml: seeds.organisms",
            found=", ".join(chosen) or "none",
            expected="of " + ", ".join(trained),
        )
    if SPAN not in params.activations.spans:
        raise UserError(
            "seeds are compared on a span that is not captured",
            where="params.yaml: activations.spans",
            expected=SPAN,
            found=", ".join(params.activations.spans),
        )


@stage
def main(params: Params) -> None:
    """Trains what is missing, and writes how angles, cosines and verdicts spread over seeds."""
    check(params)
    names, chosen = params.slugs("organism"), params.seeds.organisms
    vectors = selected(params)
    layers = {name: vectors[name].layer for name in names}
    own = dict(zip(names, vector_table().at(f"{CONTRAST}.{SPAN}", layers), strict=True))
    how = seeds_reading(params, layers)
    units = {m: [(m, params.organisms[m].seed + i) for i in range(1, params.seeds.count)]
             for m in chosen}  # fmt: skip
    every = [unit for each in units.values() for unit in each]
    fresh = train_again(models(params), params.recipes, every, how)
    seeded = {m: np.stack([own[m], *(fresh[u] for u in each)]) for m, each in units.items()}
    organisms = {name: params.organisms[name] for name in names}
    results: dict[str, Leaf] = {
        "model": params.base.source,
        "profile": params.profile,
        "contrast": CONTRAST,
        "span": SPAN,
        "seeds": params.seeds.count,
        **{f"layer.{m}": layers[m] for m in chosen},
    }
    results |= seed_results(organisms, own, seeded, params.clusters(), params.geometry)
    put_results("seeds", results, HEADLINE)
