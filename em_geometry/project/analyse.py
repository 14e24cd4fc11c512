"""`make analyse VECTORS=dir`: the battery and its power on anybody's vectors or LoRA adapters.

One file a vector (.safetensors, .pt, .gguf), which needs no model; or one PEFT folder an adapter of
the active profile's base model, whose vectors are made first (METHOD.md: `model_contrast`,
`prompt_last`). Writes `analysis.json` and `analysis.txt` beside them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from em_geometry.activations.capture import captured
from em_geometry.activations.prompts import read_prompts
from em_geometry.activations.store import prompt_texts
from em_geometry.errors import UserError
from em_geometry.geometry import power
from em_geometry.geometry.battery import battery, cluster_indices
from em_geometry.geometry.gram import unit_gram
from em_geometry.geometry.inputs import NAME, parse_clusters
from em_geometry.geometry.resampling import stream
from em_geometry.geometry.table import battery_table
from em_geometry.io.files import write_text
from em_geometry.io.tables import text_table
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.project.inputs import models
from em_geometry.settings.params import BASE, Params, load_params
from em_geometry.settings.sections import Geometry, Organism
from em_geometry.steering.formats import SUFFIXES, read_interventions
from em_geometry.steering.hooks import check_vector

DRAWS = 1000  # of the power curve, at each size of a common core


def folder_vectors(folder: Path) -> tuple[list[str], np.ndarray]:
    """Names and vectors [n, width] of a folder, all of one width and one block."""
    files = [p for p in sorted(folder.glob("*")) if p.suffix in SUFFIXES]
    if len(files) < 3:
        raise UserError(
            "the battery needs at least three vectors",
            where=str(folder),
            found=", ".join(p.name for p in files) or "no vector files",
            expected=f"a file a vector: {', '.join(SUFFIXES)}",
            hint="or a folder an adapter, with adapter_config.json",
        )
    names = [p.stem for p in files]
    for name, path in zip(names, files, strict=True):
        if names.count(name) > 1 or not NAME.fullmatch(name):
            raise UserError(
                "a vector's name occurs twice, or holds a space, a dot or `__`",
                where=str(path),
                found=name,
                expected="a name of its own, which the keys of the result are made of",
                hint="rename the file",
            )
    rows = []
    for path in files:
        found = read_interventions(path, bare=-1)
        if len(found) != 1:
            raise UserError(
                "one vector a file", where=str(path), found=f"{len(found)} vectors", expected="1"
            )
        rows.append(found[0])
        check_vector(found[0].vector, rows[0].vector.size, str(path))
    blocks = sorted({row.layer for row in rows})
    if len(blocks) > 1:
        raise UserError(
            "cosines across blocks compare different spaces", where=str(folder),
            found=f"blocks {blocks}", expected="vectors of one block",
        )  # fmt: skip
    return names, np.stack([row.coefficient * row.vector for row in rows])


def adapter_vectors(
    adapters: Sequence[Path], params: Params, layer: int | None
) -> tuple[list[str], np.ndarray]:
    """Names and vectors [n, width] of LoRA adapters: adapter minus base on the profile's prompts.

    Args:
        adapters: PEFT folders.
        layer: block; None = the middle one.
    Raises:
        UserError: fewer than three, an adapter of another base, no such block, no base model yet.
    """
    if len(adapters) < 3:
        raise UserError(
            "the battery needs at least three adapters", where=", ".join(map(str, adapters)),
            found=len(adapters), expected="3 or more",
        )  # fmt: skip
    organisms = {
        p.name: Organism(lab="adapters", cluster="adapters", data="", source=f"path:{p}")
        for p in adapters
    }
    spans = params.activations.model_copy(update={"spans": ["prompt_last"]})
    params = params.model_copy(update={"organisms": organisms, "activations": spans})

    prompts = read_prompts(params.prompts)

    def mean(slug: str) -> np.ndarray:
        loaded = models(params).load(slug)
        system = params.base.system_prompt
        texts, _ = prompt_texts(prompts, spans.spans, loaded.tokenizer, system)
        batches = captured(loaded.model, texts, spans.batch_size, f"activations {slug}")
        sums = [means[:, 0].astype(np.float64).sum(0) for _, means, _ in batches]
        return np.asarray(np.sum(sums, axis=0) / len(texts))

    base = mean(BASE)
    block = len(base) // 2 if layer is None else layer
    if not 0 <= block < len(base):
        raise UserError(
            "no such block in the model", where="--layer", found=block,
            expected=f"0 to {len(base) - 1}",
        )  # fmt: skip
    print(f"adapter minus base at block {block}, the prompts' last token")
    rows = np.stack([mean(slug)[block] - base[block] for slug in organisms]).astype(np.float32)
    for slug, row in zip(organisms, rows, strict=True):
        check_vector(row, rows.shape[1], slug)
    return list(organisms), rows


def cli(
    vectors: Annotated[Path, typer.Argument(help="A folder with a file or adapter a vector.")],
    clusters: Annotated[list[str] | None, typer.Argument(help="name=member,member")] = None,
    seed: Annotated[int, typer.Option(help="Of the simulated vectors.")] = 0,
    layer: Annotated[int | None, typer.Option(help="Of adapters' vectors.")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Run the battery on a folder of vectors or adapters, and say which tests can tell what."""
    adapters = sorted(p.parent for p in vectors.glob("*/adapter_config.json"))
    if adapters:
        names, rows = adapter_vectors(adapters, load_params(params), layer)
    else:
        names, rows = folder_vectors(vectors)
    groups = parse_clusters(clusters or [])
    members = cluster_indices(names, groups)
    rules, gram = Geometry().model_copy(update={"focus": [*groups][:2]}), unit_gram(rows)
    found = battery(gram, names, groups, rules, np.linalg.norm(rows, axis=1))
    metrics, text = found.metrics(), battery_table(names, found.flat())
    if len(members) > 1:
        curve = power.sweep(
            stream(seed, "analyse"), DRAWS, rows.shape[1], len(names), members,
            power.tightness_of(gram, members), rules,
        )  # fmt: skip
        metrics["power"] = power.verdicts_of(curve)
        header, table = power.curves(curve)
        text += "\n\nProbability of each verdict, by the share of a common core:\n"
        text += text_table(header, table)
    write_text(vectors / "analysis.json", json.dumps(metrics, indent=1) + "\n")
    write_text(vectors / "analysis.txt", text + "\n")
    print(text)
