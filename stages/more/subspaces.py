"""Experiment `subspaces`: what fine-tunes share, against random adapters of their norms."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from em_geometry.activations.prompts import (
    Text,
    prompt_texts,
    read_prompts,
    unseen_chats,
    unseen_texts,
)
from em_geometry.geometry.references import Finetunes
from em_geometry.geometry.samples import massive_dimensions
from em_geometry.io.files import atomic_path, read_tensors, write_parquet
from em_geometry.models.folder import is_adapter
from em_geometry.models.load import Loaded
from em_geometry.more.adapters import read_adapter
from em_geometry.more.drawn import drawn
from em_geometry.more.likeness import pair_rows
from em_geometry.more.subspaces import findings
from em_geometry.project import paths
from em_geometry.project.inputs import activations, models, rows, selected
from em_geometry.project.outputs import put_results
from em_geometry.settings import BASE, TEXTS, Params
from em_geometry.stats.estimate import Floats
from em_geometry.steering.conditions import typical
from em_geometry.vectors.contrasts import prompt_span, recipe_controls

MEASURES = (
    "shift.cosine",
    "shift.overlap_4",
    "write.overlap_4",
    "read.overlap_4",
    "weights.cosine",
)
GROUPS = ("organisms", "repeats", "benign", "random")


def main(params: Params) -> None:
    known, chosen = models(params), selected(params)
    span = prompt_span(typical(chosen).span, params.spans())
    block = int(np.median([each.layer for each in chosen.values()]))
    made = [*params.organisms, *params.random_adapters]
    folders = {slug: known.adapter_folder(slug) for slug in made}
    adapters = {m: read_adapter(folder) for m, folder in folders.items() if is_adapter(folder)}
    likes = {f"drawn_{slug}": slug for slug in params.slugs("organism") if slug in adapters}

    def texts(loaded: Loaded) -> Sequence[Text]:
        chat = loaded.tokenizer, known.system_prompt
        if span != TEXTS:
            return prompt_texts(read_prompts(params.prompts), [span], *chat)[0]
        return unseen_texts(
            unseen_chats(params.originals().values(), params.activations.texts), *chat
        )[0]

    with atomic_path(paths.MORE / "subspaces", folder=True) as folder:
        adapters |= drawn(
            known, likes, texts, span, params.activations.batch_size, folder, params.workers
        )
        family = Finetunes(
            params.slugs("organism"), params.slugs("control"), recipe_controls(params.organisms),
            params.repeats(), [*params.random_adapters, *likes],
        )  # fmt: skip
        read = {m: activations(m, span) for m in params.targets}
        read |= {m: read_tensors(folder / f"{m}.safetensors")[0][span] for m in likes}
        base = read[BASE].astype(np.float64)

        def shifts_at(block: int) -> Floats:
            return np.stack([read[m][:, block] - base[:, block] for m in family.models])

        massive = massive_dimensions(base[:, block], params.geometry.massive_share)
        topics = rows(span)["topic"].to_list()
        of = topics, family, params.clusters(), adapters, params.run.seed
        found, measures = findings(shifts_at, block, base.shape[1], massive, *of)
        pairs = pl.DataFrame(
            pair_rows(measures), ["measure", "first", "second", "value"], orient="row"
        )
        write_parquet(folder / "pairs.parquet", pairs, {"block": str(block), "span": span})
    about = {"block": block, "span": span, "texts": len(topics), "topics": len({*topics})}
    headline = [*about, *(f"{measure}.{group}" for measure in MEASURES for group in GROUPS)]
    put_results("subspaces", {**about, **found}, headline)
