"""Stage `vectors`: every contrast of every model at every block.

Writes `data/vectors/vectors.safetensors` (a raw tensor [model, block, width] for each
`<contrast>.<span>`) and `data/vectors/index.parquet` (norms and statuses). What is not defined is
zero in the tensor and says why in the index.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from em_geometry.activations.store import LAYERS
from em_geometry.errors import UserError
from em_geometry.geometry.labels import misaligned_and_aligned
from em_geometry.io.files import read_parquet, read_tensors, write_parquet, write_tensors
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.settings.params import BASE, Params, load_params
from em_geometry.vectors.contrasts import (
    interaction,
    model_contrast,
    prompt_contrast,
    response_contrast,
)
from em_geometry.vectors.files import ACTIVATIONS, INDEX, VECTORS, residual_norms

RESPONSES = Path("data/response_activations")
BASELINE = Path("data/baseline/judgements")

Entry = np.ndarray | str  # raw vectors [blocks, width], or why there are none


@dataclass(frozen=True)
class Inputs:
    """Activations of all targets on one span, with what the prompts are."""

    span: str
    activations: dict[str, np.ndarray]
    harmful: np.ndarray


def main(params: Params) -> None:
    """Builds all vectors from the activation artifacts."""
    import polars as pl

    table: dict[str, list[Entry]] = {}
    spans: list[str] = list(params.activations.spans)
    for span in spans:
        inputs = _read(params, span)
        table[f"prompt_contrast.{span}"] = [
            prompt_contrast(inputs.activations[m], inputs.harmful) for m in params.targets
        ]
        table[f"model_contrast.{span}"] = [_against(inputs, m, BASE) for m in params.targets]
        table[f"control_contrast.{span}"] = [
            _against_control(params, inputs, m) for m in params.targets
        ]
        table[f"interaction.{span}"] = [
            "undefined: the base is its own reference"
            if m == BASE
            else interaction(inputs.activations[m], inputs.activations[BASE], inputs.harmful)
            for m in params.targets
        ]
    table.update(_response_contrasts(params))
    residual = residual_norms(params)
    shape = (len(residual), next(e for e in _arrays(table)).shape[-1])
    tensors, rows = {}, []
    for key, entries in table.items():
        contrast, _, span = key.partition(".")
        tensors[key] = np.zeros((len(entries), *shape), dtype=np.float32)
        for i, (model, entry) in enumerate(zip(params.targets, entries, strict=True)):
            norms = np.zeros(shape[0])
            if not isinstance(entry, str):
                tensors[key][i] = entry
                norms = np.linalg.norm(entry.astype(np.float64), axis=-1)
            for layer, norm in enumerate(norms):
                status = entry if isinstance(entry, str) else ("ok" if norm > 0 else "zero vector")
                rows.append((contrast, span, model, layer, norm, residual[layer], status))
    metadata = {
        "models": json.dumps(params.targets),
        "layers": LAYERS,
        "units": "residual stream, raw differences of means",
        "dtype": "float32",
    }
    write_tensors(VECTORS, tensors, metadata)
    columns = ["contrast", "span", "model", "layer", "norm", "residual_norm", "status"]
    write_parquet(INDEX, pl.DataFrame(rows, schema=columns, orient="row"), metadata)


def _arrays(table: dict[str, list[Entry]]) -> Iterator[np.ndarray]:
    return (e for entries in table.values() for e in entries if not isinstance(e, str))


def _read(params: Params, span: str) -> Inputs:
    activations = {}
    harmful, first = None, None
    for model in params.targets:
        tensors, _ = read_tensors(ACTIVATIONS / f"{model}.safetensors")
        rows = read_parquet(ACTIVATIONS / f"{model}.parquet")
        activations[model] = tensors[span]
        if first is None:
            first, harmful = rows["prompt_id"].to_list(), (rows["kind"] == "harmful").to_numpy()
        elif rows["prompt_id"].to_list() != first:
            raise UserError(
                "activations were taken on other prompts than those of the base",
                where=str(ACTIVATIONS / f"{model}.parquet"),
                hint="dvc repro activations",
                found="other prompt ids",
            )
    assert harmful is not None  # targets are never empty
    return Inputs(span, activations, harmful)


def _against(inputs: Inputs, model: str, reference: str) -> Entry:
    if model == reference:
        return "undefined: the model is its own reference"
    return model_contrast(inputs.activations[model], inputs.activations[reference])


def _against_control(params: Params, inputs: Inputs, model: str) -> Entry:
    """Against the first benign control of the same lab's recipe."""
    if model == BASE:
        return "undefined: the base has no recipe"
    lab = params.organisms[model].lab
    same = [c for c in params.slugs("control") if params.organisms[c].lab == lab]
    if not same:
        return f"undefined: no control of recipe {lab}"
    return _against(inputs, model, same[0])


def _response_contrasts(params: Params) -> dict[str, list[Entry]]:
    """(c) from the judged unsteered answers; answers without a score are in neither group."""
    table: dict[str, list[Entry]] = {}
    for model in params.targets:
        frame = read_parquet(BASELINE / f"{model}.parquet")
        tensors, metadata = read_tensors(RESPONSES / f"{model}.safetensors")
        bad, good = misaligned_and_aligned(frame[json.loads(metadata["rows"])], params.judging)
        for span, activations in tensors.items():
            entries = table.setdefault(f"response_contrast.{span}", [])
            entries.append(response_contrast(activations, bad, good))
    return table


def cli(params: ParamsFile = PARAMS) -> None:
    """Build the steering vectors of every contrast, model and block."""
    main(load_params(params))
