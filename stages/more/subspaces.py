"""Experiment `subspaces`: what fine-tunes share, against random adapters of their norms."""

import numpy as np
import polars as pl

from em_geometry.geometry.grams import massive_dimensions
from em_geometry.geometry.references import Finetunes
from em_geometry.io.files import atomic_path, write_parquet
from em_geometry.io.results import Leaf
from em_geometry.models.folder import is_adapter
from em_geometry.more.adapters import read_adapter
from em_geometry.more.subspaces.comparison import findings
from em_geometry.more.subspaces.likeness import pair_rows
from em_geometry.more.subspaces.random import drawn
from em_geometry.project import paths
from em_geometry.project.inputs import activations, models, rows, selected, texts_of
from em_geometry.project.outputs import put_results
from em_geometry.settings import BASE, Params
from em_geometry.stats.estimate import Floats
from em_geometry.steering.conditions import typical
from em_geometry.vectors.contrasts import prompt_span, recipe_controls

MEASURES = ("shift.cosine", "shift.overlap_4", "write.overlap_4", "read.overlap_4",
            "weights.cosine")  # fmt: skip
GROUPS = ("organisms", "repeats", "benign", "random")
COLUMNS = ["measure", "first", "second", "value"]


def main(params: Params) -> None:
    known, chosen = models(params), selected(params)
    span = prompt_span(typical(chosen).span, params.spans())
    block = int(np.median([each.layer for each in chosen.values()]))
    made = [*params.organisms, *params.random_adapters]
    folders = {slug: known.adapter_folder(slug) for slug in made}
    adapters = {m: read_adapter(folder) for m, folder in folders.items() if is_adapter(folder)}
    likes = {f"drawn_{slug}": slug for slug in params.slugs("organism") if slug in adapters}
    read = {m: activations(m, span) for m in params.targets}
    size = params.activations.batch_size
    for name, factors, means in drawn(known, likes, lambda m: texts_of(params, m, span), size):
        adapters[name], read[name] = factors, means
    controls, random = recipe_controls(params.organisms), [*params.random_adapters, *likes]
    slugs = params.slugs("organism"), params.slugs("control")
    family, base = Finetunes(*slugs, controls, params.repeats(), random), read[BASE].astype(float)

    def shifts_at(block: int) -> Floats:
        return np.stack([read[m][:, block] - base[:, block] for m in family.models])

    massive = massive_dimensions(base[:, block], params.geometry.massive_share)
    topics = rows(span)["topic"].to_list()
    of = topics, family, params.clusters(), adapters, params.run.seed
    found, measures = findings(shifts_at, block, base.shape[1], massive, *of)
    pairs = pl.DataFrame(pair_rows(measures), COLUMNS, orient="row")
    with atomic_path(paths.MORE / "subspaces", folder=True) as folder:
        write_parquet(folder / "pairs.parquet", pairs, {"block": str(block), "span": span})
    about: dict[str, Leaf] = {
        "block": block,
        "span": span,
        "texts": len(topics),
        "topics": len({*topics}),
    }
    headline = [*about, *(f"{measure}.{group}" for measure in MEASURES for group in GROUPS)]
    put_results("subspaces", {**about, **found}, headline)
