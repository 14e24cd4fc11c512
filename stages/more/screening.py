"""Experiment `screening`: do projections of training texts foretell what training on them does?

Writes texts.parquet: a row a training text, with its score along the organisms' vectors that are
not of its file, and its rank within the file.
"""

from pathlib import Path

import numpy as np
import polars as pl

from em_geometry.io.files import atomic_path, read_parquet, write_parquet
from em_geometry.more.screening.foretold import OTHERS, TOGETHER, Caused, outcomes
from em_geometry.more.screening.texts import Files, answers_read, made_of, trained_chats
from em_geometry.more.traits.readings import WHOLE, parts, read_traits, readings
from em_geometry.project import paths
from em_geometry.project.inputs import activations, models, selected, vector_table
from em_geometry.project.outputs import put_results
from em_geometry.settings import BASE, Params
from em_geometry.steering.conditions import typical
from em_geometry.vectors.contrasts import prompt_span

HEADLINE = ("files", "texts", f"margin.{TOGETHER}", f"margin.{TOGETHER}.p", "margin.trait.*",
            f"margin.{OTHERS}",
            f"margin.{OTHERS}.p", f"shift.{TOGETHER}", "told.*.mean.*", "told.*.p")  # fmt: skip


def main(params: Params) -> None:
    known, usual = models(params), typical(selected(params))
    block, choice, loaded = usual.layer, f"{usual.contrast}.{usual.span}", known.load(BASE)
    table, who = vector_table(), params.slugs("organism")
    chats = trained_chats(params.organisms)
    texts = [answers_read(loaded, each, known.system_prompt, block) for each in chats.values()]
    span = prompt_span(usual.span, params.spans())
    margin = pl.col("marked") - pl.col("plain")
    frame = read_parquet(paths.MARGINS).filter(way="unsteered", kind="misaligned")
    margins = dict(frame.group_by("target").agg(margin.mean()).iter_rows())
    base = activations(BASE, span)[:, block].astype(np.float64)
    moved, gained = [], []
    for slug in chats:  # all trainings on its file, repeats among them
        data = params.organisms[slug].data
        same = [m for m, o in params.organisms.items() if o.data == data]
        moved.append(np.mean([activations(m, span)[:, block] - base for m in same], axis=(0, 1)))
        gained.append(np.mean([margins[m] for m in same]) - margins[BASE])
    benign = np.array([params.organisms[slug].role == "control" for slug in chats])
    own = made_of(params.organisms, usual.contrast)
    files = Files([*chats], benign, texts, own, float(table.residual[block]))
    caused = Caused(np.array(gained), np.stack(moved))
    vectors = dict(zip(who, table.at(choice, dict.fromkeys(who, block)), strict=True))
    found = readings(loaded, read_traits(Path(params.more.traits)))
    traits = {t: parts(each)[WHOLE][:, block].mean(0).astype(float) for t, each in found.items()}
    mates = {m: group for group in params.clusters().values() for m in group}
    results = {"block": block, **outcomes(files, caused, vectors, traits, mates, params.run.seed)}
    scores = files.scores(files.rows(vectors))
    rows = [
        (slug, bool(quiet), one.id, one.chat.question, float(value))
        for slug, quiet, of, each in zip(chats, benign, chats.values(), scores, strict=True)
        for one, value in zip(of, each, strict=True)
    ]
    told = pl.DataFrame(rows, ["file", "benign", "text", "question", "score"], orient="row")
    ranked = told.with_columns(rank=pl.col("score").rank("ordinal", descending=True).over("file"))
    units = {"score": "share of the mean residual norm, along vectors of other files"}
    with atomic_path(paths.MORE / "screening", folder=True) as folder:
        write_parquet(folder / "texts.parquet", ranked.sort("file", "rank"), units)
    put_results("screening", results, HEADLINE)
