"""Random vectors, and artifacts of the model stages with known structure, without a model."""

from pathlib import Path

import numpy as np
import polars as pl
import yaml

from em_geometry.io.files import write_parquet, write_tensors
from em_geometry.io.results import read_results, write_results
from em_geometry.project import paths
from em_geometry.settings import TEXTS, Geometry, Params, load_params
from em_geometry.stats.estimate import Floats
from em_geometry.steering.conditions import Selected, write_selected
from em_geometry.vectors.contrasts import Entry, VectorTable, model_contrasts, write_vector_table
from tests.conftest import changed

WIDTH, LAYERS, TOPICS, PAIRS = 48, 3, 8, 4  # PAIRS of a neutral and a harmful prompt per topic
SPANS = ("prompt_last", "prompt_mean")
CHOICE = "model_contrast.prompt_last"
RULES = Geometry(focus=[])


def unit_vectors(seed: int, n: int, width: int, common: float = 0.0) -> Floats:
    """n random unit vectors [n, width] with a common part."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, width)) + common * rng.standard_normal(width)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def params_with(folder: Path, **geometry: object) -> Params:
    data = changed()
    data["geometry"] |= {"replicates": 200, **geometry}
    data["layer_sweep"]["layers"] = list(range(LAYERS))
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return load_params(path)


def write_artifacts(folder: Path, params: Params, core: float = 0.0, seed: int = 0) -> None:
    """Activations of all targets, and vectors made from them, under `folder`/data."""
    rng = np.random.default_rng(seed)
    kinds = ["neutral", "harmful"]
    rows = [(k, t, p) for k in kinds for t in range(TOPICS) for p in range(PAIRS)]
    frame = pl.DataFrame(
        {
            "prompt_id": [f"{k}{t}-{p}" for k, t, p in rows],
            "kind": [k for k, _, _ in rows],
            "topic": [f"topic{t}" for _, t, _ in rows],
            "pair": [f"{t}-{p}" for _, t, p in rows],
            "tokens": [9] * len(rows),
        }
    )
    harmful = np.array([k == "harmful" for k, _, _ in rows])
    base = rng.standard_normal((len(rows), LAYERS, WIDTH))
    base[:, :, 0] += 60.0  # a massive-activation dimension
    common, cluster = rng.standard_normal((2, WIDTH)), {}
    activations = {"base": base}
    for slug in params.targets[1:]:
        group = params.organisms[slug].cluster if slug in params.organisms else None
        shift = np.sqrt(core) * common[0] + 0.5 * rng.standard_normal(WIDTH)
        if group is not None:
            shift += cluster.setdefault(group, rng.standard_normal(WIDTH))
        noise = 0.5 * rng.standard_normal((len(rows), LAYERS, WIDTH))
        activations[slug] = base + shift * (1.0 + 0.3 * harmful[:, None, None]) + noise
    answers = frame.select(text_id="prompt_id", topic="topic")  # the same, said to be answers
    for slug, values in activations.items():
        tensors = {span: values.astype(np.float32) for span in (*SPANS, TEXTS)}
        write_tensors(folder / f"data/activations/{slug}.safetensors", tensors, {"model": slug})
        write_parquet(folder / f"data/activations/{slug}.parquet", frame, {"model": slug})
        write_parquet(folder / f"data/activations/{slug}_texts.parquet", answers, {"model": slug})
    _write_vectors(folder, params, activations, harmful)


def _write_vectors(
    folder: Path, params: Params, activations: dict[str, np.ndarray], harmful: np.ndarray
) -> None:
    """Tables as `vectors` and `layer_sweep` write them; one model lacks a control contrast."""
    entries: dict[str, list[Entry]] = {}
    controls = dict.fromkeys(params.targets, "control") | {"base": "undefined: no recipe"}
    controls["medical_replication"] = "undefined: no control"
    shifts = model_contrasts(activations, controls)
    for contrast, each in model_contrasts(activations, controls, harmful).items():
        entries |= {f"{contrast}.{span}": each for span in SPANS}
    entries |= {f"{contrast}.{TEXTS}": each for contrast, each in shifts.items()}
    table = VectorTable.of(params.targets, entries, np.full(LAYERS, 8.0))
    write_vector_table(folder / paths.VECTORS, folder / paths.VECTOR_INDEX, table)
    names = params.slugs("organism")
    units = {name: table.units(CHOICE, name)[1] for name in names if name in table.models}
    rows = {n: table.norms[CHOICE][table.models.index(n), 1] for n in names}
    picked = {n: Selected(unit, 1, 0.3, 2.4, float(rows[n])) for n, unit in units.items()}
    write_selected(folder / paths.SELECTED, picked, {})
    sweep = {f"{name}.best_layer_by_margin": i % LAYERS for i, name in enumerate(names)}
    (folder / "data/external").mkdir(exist_ok=True)
    table_path = folder / paths.table("layer_sweep")
    known = read_results(table_path).rows if table_path.is_file() else {}
    write_results(table_path, folder / paths.metrics("layer_sweep"), {**known, **sweep})
