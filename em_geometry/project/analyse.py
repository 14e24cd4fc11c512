"""`em-geometry analyse DIR`: the battery, chance and power on anybody's vectors or LoRA adapters.

One file a vector (.safetensors, .pt, .gguf) or the run's own selected.safetensors, which needs no
model; or one PEFT folder an adapter of the active profile's base model, whose vectors are made
first (docs/method.md: `model_contrast`, `prompt_last`). Writes `analysis.json` and `analysis.txt`
beside them.
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
from em_geometry.geometry import Calibration, battery, calibrate, power
from em_geometry.geometry.inputs import NAME, parse_clusters
from em_geometry.io.files import nest, write_text
from em_geometry.io.tables import text_table
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.project.inputs import models
from em_geometry.settings import BASE, Geometry, Organism, Params, load_params
from em_geometry.stats.arrays import Floats
from em_geometry.steering.formats import SUFFIXES, read_interventions
from em_geometry.steering.hooks import check_vector
from em_geometry.steering.selected import read_selected

DRAWS = 1000  # of the nulls, and of the power curve at each size of a common core


def file_vectors(path: Path) -> dict[str, Floats]:
    """Raw vectors [width] of a folder of files, or of a run's file of selected vectors.

    Raises:
        UserError: fewer than two, a name that no key can be made of, two widths or blocks.
    """
    if path.is_file():
        selected = read_selected(path)
        blocks = {name: s.layer for name, s in selected.items()}
        rows = {name: s.norm * s.vector.astype(np.float64) for name, s in selected.items()}
    else:
        rows, blocks = _one_a_file(path)
    if len(rows) < 2:
        raise UserError(
            "the battery needs at least two vectors",
            where=str(path),
            found=", ".join(rows) or "no vector files",
            expected=f"a file a vector: {', '.join(SUFFIXES)}",
            hint="or a folder an adapter, with adapter_config.json",
        )
    if len(set(blocks.values())) > 1:
        raise UserError(
            "cosines across blocks compare different spaces",
            where=str(path),
            found=f"blocks {sorted(set(blocks.values()))}",
            expected="vectors of one block",
        )
    return rows


def _one_a_file(folder: Path) -> tuple[dict[str, Floats], dict[str, int]]:
    """Vectors and blocks by the names of the files."""
    rows: dict[str, Floats] = {}
    blocks: dict[str, int] = {}
    files = [p for p in sorted(folder.glob("*")) if p.suffix in SUFFIXES]
    names = [path.stem for path in files]
    for path, name in zip(files, names, strict=True):
        if names.count(name) > 1 or not NAME.fullmatch(name):
            raise UserError(
                "a vector's name occurs twice, or holds a space, a dot or `__`",
                where=str(path),
                found=name,
                expected="a name of its own, which the keys of the result are made of",
                hint="rename the file",
            )
        found = read_interventions(path, bare=-1)
        if len(found) != 1:
            raise UserError(
                "one vector a file", where=str(path), found=f"{len(found)} vectors", expected="1"
            )
        width = next(iter(rows.values()), found[0].vector).size
        check_vector(found[0].vector, width, str(path))
        rows[name] = np.asarray(found[0].coefficient * found[0].vector, dtype=np.float64)
        blocks[name] = found[0].layer
    return rows, blocks


def adapter_vectors(
    adapters: Sequence[Path], params: Params, layer: int | None
) -> dict[str, Floats]:
    """Vectors [width] of LoRA adapters: adapter minus base on the profile's prompts.

    Args:
        adapters: PEFT folders.
        layer: block; None = the middle one.
    Raises:
        UserError: fewer than two, an adapter of another base, no such block, no base model yet.
    """
    if len(adapters) < 2:
        raise UserError(
            "the battery needs at least two adapters",
            where=", ".join(map(str, adapters)),
            found=len(adapters),
            expected="2 or more",
        )
    organisms = {
        p.name: Organism(lab="adapters", cluster="adapters", data="", source=f"path:{p}")
        for p in adapters
    }
    spans = params.activations.model_copy(update={"spans": ["prompt_last"]})
    params = params.model_copy(update={"organisms": organisms, "activations": spans})

    prompts = read_prompts(params.prompts)

    def mean(slug: str) -> Floats:
        loaded = models(params).load(slug)
        texts, _ = prompt_texts(prompts, spans.spans, loaded.tokenizer, params.base.system_prompt)
        batches = captured(loaded.model, texts, spans.batch_size, f"activations {slug}")
        sums = [means[:, 0].astype(np.float64).sum(0) for _, means, _ in batches]
        return np.asarray(np.sum(sums, axis=0) / len(texts))

    base = mean(BASE)
    block = len(base) // 2 if layer is None else layer
    if not 0 <= block < len(base):
        raise UserError(
            "no such block in the model",
            where="--layer",
            found=block,
            expected=f"0 to {len(base) - 1}",
        )
    print(f"adapter minus base at block {block}, the prompts' last token")
    rows = {slug: (mean(slug)[block] - base[block]).astype(np.float32) for slug in organisms}
    for slug, row in rows.items():
        check_vector(row, len(base[block]), slug)
    return rows


def _chance(found: Calibration) -> dict[str, object]:
    """Of every statistic what chance gives, by dotted key."""
    flat: dict[str, object] = {}
    for key, c in found.statistics.items():
        for null, p in c.nulls.values():
            parts = {"median": null.value, "low": null.low, "high": null.high, "p": p}
            flat |= {f"chance.{key}.{k}": v for k, v in parts.items() if v is not None}
        if c.partition is not None:
            flat[f"chance.{key}.p_of_clusters"] = c.partition.p
    return flat


def cli(
    vectors: Annotated[Path, typer.Argument(help="A folder with a file or adapter a vector.")],
    clusters: Annotated[list[str] | None, typer.Argument(help="name=member,member")] = None,
    seed: Annotated[int, typer.Option(help="Of the simulated vectors.")] = 0,
    layer: Annotated[int | None, typer.Option(help="Of adapters' vectors.")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Run the battery on a folder of vectors or adapters, and say which tests can tell what."""
    adapters = sorted(p.parent for p in vectors.glob("*/adapter_config.json"))
    rows = (
        adapter_vectors(adapters, load_params(params), layer) if adapters else file_vectors(vectors)
    )
    groups, rules = parse_clusters(clusters or []), Geometry(replicates=DRAWS)
    found, chance = battery(rows, groups, rules), calibrate(rows, groups, rules, seed)
    flat = found.flat() | _chance(chance)
    text = f"{found}\n\nAgainst directions without any relation:\n{chance}"
    if chance.sweep is not None:
        for key, leaf in power.verdicts_of(chance.sweep).items():
            flat[f"power.{key}"] = leaf
        text += "\n\nProbability of each verdict, by the share of a common core:\n"
        text += text_table(*power.curves(chance.sweep))
    folder = vectors.parent if vectors.is_file() else vectors
    write_text(folder / "analysis.json", json.dumps(nest(flat), indent=1) + "\n")
    write_text(folder / "analysis.txt", text + "\n")
    print(text)
