"""Stage `geometry`: the battery on the measured vectors, and how it depends on their choice.

Writes metrics/geometry.json (the battery's keys for the selected vectors, `selected`,
`sensitivity`, `survives`, `external`) and, in plots/: `cosines.csv`, `pca.csv`, `mds.csv`,
`layer_trace.csv` (cluster angles at every block) and `sensitivity.csv` (a line a choice).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from em_geometry.errors import UserError
from em_geometry.geometry import pca
from em_geometry.geometry.battery import battery
from em_geometry.geometry.external import read_directions, with_external
from em_geometry.geometry.gram import Floats, Ints, unit_gram
from em_geometry.geometry.mds import mds
from em_geometry.geometry.verdict import TESTS
from em_geometry.io.files import (
    nest,
    read_json,
    read_parquet,
    read_tensors,
    write_metrics,
    write_text,
)
from em_geometry.io.tables import csv_text
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.settings.params import BASE, Params, load_params
from em_geometry.settings.sections import Geometry

FOLDER, ACTIVATIONS = Path("data/vectors"), Path("data/activations")
SELECTED, VECTORS = FOLDER / "selected.safetensors", FOLDER / "vectors.safetensors"
INDEX = FOLDER / "index.parquet"
METRICS, PLOTS = Path("metrics/geometry.json"), Path("plots")
SWEEP = Path("metrics/layer_sweep.json")
LAYER, PER_MODEL, NO_MASSIVE = "layer.", "per_model", "without_massive"  # names of choices
MAIN = (
    "cluster_angle.",
    "verdict.",
    "similarity.cross_mean",
    "similarity.within_mean",
    "clusters.silhouette_k",
)
CONCLUSIONS = (*(f"verdict.{test}" for test in TESTS), "clusters.silhouette_k")


@dataclass(frozen=True)
class Measured:
    """The organisms' vectors.

    Attributes:
        names: organisms in order.
        clusters: cluster -> organisms.
        unit: [n, width] selected unit vectors.
        norms: [n] their raw lengths.
        layers: [n] the block of each.
        own_layers: [n] the block that the sweep found best for each by itself.
        choice: contrast and span they were built with, as in `tables`.
        tables: `<contrast>.<span>` -> raw vectors [n, block, width].
        statuses: `<contrast>.<span>` -> {(organism, block): why there is no vector}.
    """

    names: list[str]
    clusters: dict[str, list[str]]
    unit: Floats
    norms: Floats
    layers: Ints
    own_layers: Ints
    choice: str
    tables: dict[str, Floats]
    statuses: dict[str, dict[tuple[str, int], str]]

    def missing(self, table: str, layers: Ints) -> str | None:
        """Why the vectors of a table at these blocks are not all there; None if they are."""
        for name, layer in zip(self.names, layers.tolist(), strict=True):
            status = self.statuses[table].get((name, layer))
            if status is not None:
                return f"undefined: {name}: {status.removeprefix('undefined: ')}"
        return None

    def at(self, table: str, layers: Ints) -> Floats:
        """Raw vectors [n, width] of a table, each organism at its block."""
        vectors: Floats = self.tables[table][np.arange(len(self.names)), layers]
        return vectors


def read_measured(params: Params) -> Measured:
    """Reads and checks the artifacts of `vectors` and `layer_sweep`."""
    names = params.slugs("organism")
    chosen, about = read_tensors(SELECTED)
    tensors, metadata = read_tensors(VECTORS)
    index, sweep = read_parquet(INDEX), read_json(SWEEP)
    try:
        models = json.loads(metadata["models"])
        layers, norms = json.loads(about["layers"]), json.loads(about["norms"])
        rows = [models.index(name) for name in names]
        unit = np.stack([chosen[name] for name in names]).astype(np.float64)
        layer = np.array([layers[name] for name in names])
        own = np.array([sweep[name]["best_layer_by_margin"] for name in names])
        norm = np.array([norms[name] for name in names], dtype=np.float64)
        choice = f"{about['contrast']}.{about['span']}"
    except (KeyError, ValueError) as error:
        raise UserError(
            "the vectors are not those of the organisms in the params",
            where=f"{SELECTED}, {VECTORS}, {SWEEP}",
            found=str(error),
            expected=", ".join(names),
            hint="dvc repro layer_sweep",
        ) from None
    statuses: dict[str, dict[tuple[str, int], str]] = {key: {} for key in tensors}
    for row in index.filter(index["status"] != "ok").iter_rows(named=True):
        key = f"{row['contrast']}.{row['span']}"
        statuses.setdefault(key, {})[row["model"], row["layer"]] = row["status"]
    tables = {key: tensor[rows].astype(np.float64) for key, tensor in tensors.items()}
    return Measured(names, params.clusters(), unit, norm, layer, own, choice, tables, statuses)


def massive_dimensions(rows: Floats, share: float) -> Ints:
    """The `share` of dimensions with the largest mean magnitude over rows [m, width]."""
    count = round(share * rows.shape[-1])
    order = np.argsort(-np.abs(rows).mean(0), kind="stable")
    return order[:count]


def base_activations(spans: Sequence[str], span: str, layer: int) -> Floats:
    """The base's activations [prompts, width]; of the first of `spans` if `span` is not one."""
    tensors, _ = read_tensors(ACTIVATIONS / f"{BASE}.safetensors")
    return tensors[span if span in spans else spans[0]][:, layer].astype(np.float64)


def sensitivity(measured: Measured, rules: Geometry, massive: Ints) -> dict[str, dict[str, Any]]:
    """Main numbers under every choice: contrast and span, and without `massive` dimensions.

    Keys are `<contrast>.<span>` at the selected blocks, each block's number for the selected
    contrast (`layer.<l>`), each model at its own best block (`per_model`), and
    `without_massive`. Undefined choices have a `status` only.
    """

    def numbers(vectors: Floats) -> dict[str, Any]:
        flat = battery(unit_gram(vectors), measured.names, measured.clusters, rules).flat()
        return {key: value for key, value in flat.items() if key.startswith(MAIN)}

    def choice(table: str, layers: Ints) -> dict[str, Any]:
        status = measured.missing(table, layers)
        return numbers(measured.at(table, layers)) if status is None else {"status": status}

    found = {table: choice(table, measured.layers) for table in sorted(measured.tables)}
    if measured.choice in measured.tables:
        for layer in range(measured.tables[measured.choice].shape[1]):
            at = np.full_like(measured.layers, layer)
            found[f"{LAYER}{layer}"] = choice(measured.choice, at)
        found[PER_MODEL] = choice(measured.choice, measured.own_layers)
    found[NO_MASSIVE] = numbers(np.delete(measured.unit, massive, axis=1))
    return found


def survives(
    chosen: Mapping[str, Any], kinds: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """For each conclusion, in how many of the choices of a kind it comes out the same.

    Args:
        chosen: flat battery of the vectors that the conclusions are about.
        kinds: kind of choice -> flat numbers under each.
    """
    return {
        key.replace(".", "_"): {"selected": chosen[key]}
        | {
            kind: f"{sum(numbers[key] == chosen[key] for numbers in group)} of {len(group)}"
            for kind, group in kinds.items()
        }
        for key in CONCLUSIONS
    }


def _kinds(choices: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The defined choices: contrasts with spans, blocks, and each other choice by itself."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for choice, numbers in choices.items():
        if "status" not in numbers:
            kind = "blocks" if choice.startswith(LAYER) else choice
            kinds.setdefault("contrasts" if "." in kind else kind, []).append(numbers)
    return kinds


def main(params: Params) -> None:
    """Runs the battery on the selected vectors and under every other choice."""
    measured, rules = read_measured(params), params.geometry
    names, gram = measured.names, unit_gram(measured.unit)
    directions = read_directions(Path(params.vectors.external), measured.unit.shape[1], names)
    chosen = battery(gram, names, measured.clusters, rules, measured.norms)
    middle = int(np.median(measured.layers))
    base = base_activations(params.activations.spans, measured.choice.split(".")[1], middle)
    choices = sensitivity(measured, rules, massive_dimensions(base, rules.massive_share))
    maps = mds(gram, params.run.seed)
    listed = {k: v for k, v in choices.items() if not k.startswith(LAYER)}  # the trace has those
    metrics = chosen.metrics() | {
        "selected": {
            "choice": measured.choice,
            "layer": dict(zip(names, measured.layers.tolist(), strict=True)),
            "norm": dict(zip(names, measured.norms.tolist(), strict=True)),
        },
        "sensitivity": nest({f"{c}.{k}": v for c, each in listed.items() for k, v in each.items()}),
        "mds": {
            "classical_stress": maps.classical_stress,
            "smacof_stress": maps.smacof_stress,
        },
        "survives": survives(chosen.flat(), _kinds(choices)),
        "external": with_external(measured.unit, names, measured.clusters, rules, directions),
    }
    write_metrics(METRICS, metrics)
    points = np.concatenate([maps.classical, maps.smacof], axis=1)
    axes = [f"{kind}_{axis}" for kind in ("classical", "smacof") for axis in "xy"]
    scores = pca.components(pca.centred(gram)).scores[:, :3]
    _write_table("cosines.csv", ["name", *names], zip(names, *gram.T.tolist(), strict=True))
    _write_table("pca.csv", ["name", "pc1", "pc2", "pc3"], zip(names, *scores.T, strict=True))
    _write_table("mds.csv", ["name", *axes], zip(names, *points.T, strict=True))
    columns = [key for key in choices[NO_MASSIVE] if key != "status"]
    angles = {c.split(".")[1].removesuffix("_deg"): c for c in columns if c.startswith(MAIN[0])}
    trace = {k.removeprefix(LAYER): v for k, v in choices.items() if k not in listed}
    _write_table(
        "layer_trace.csv",
        ["layer", *angles],
        ([layer, *(each.get(a, "") for a in angles.values())] for layer, each in trace.items()),
    )
    _write_table(
        "sensitivity.csv",
        ["choice", *columns, "status"],
        (
            [choice, *(each.get(c, "") for c in columns), each.get("status", "ok")]
            for choice, each in choices.items()
        ),
    )


def _write_table(name: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    write_text(PLOTS / name, csv_text(header, rows))


def cli(params: ParamsFile = PARAMS) -> None:
    """Run the battery on the measured steering vectors."""
    main(load_params(params))
