"""Artifacts of the model stages with known structure, small and without a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from em_geometry.io.files import write_parquet, write_tensors
from em_geometry.settings.params import Params, load_params

WIDTH, LAYERS, TOPICS, PAIRS = 48, 3, 8, 4  # PAIRS of a neutral and a harmful prompt per topic
CONTRASTS = ("model_contrast", "prompt_contrast", "control_contrast", "interaction")
SPANS = ("prompt_last", "prompt_mean")
PROFILE = Path(__file__).parents[2] / "profiles" / "smol.yaml"


def params_with(folder: Path, **geometry: object) -> Params:
    """The small profile with few replicates."""
    data = yaml.safe_load(PROFILE.read_text())
    data["geometry"] |= {"replicates": 200, **geometry}
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
        group = params.organisms[slug].cluster
        shift = np.sqrt(core) * common[0] + 0.5 * rng.standard_normal(WIDTH)
        if group is not None:
            shift += cluster.setdefault(group, rng.standard_normal(WIDTH))
        noise = 0.5 * rng.standard_normal((len(rows), LAYERS, WIDTH))
        activations[slug] = base + shift * (1.0 + 0.3 * harmful[:, None, None]) + noise
    for slug, values in activations.items():
        tensors = {span: values.astype(np.float32) for span in SPANS}
        write_tensors(folder / f"data/activations/{slug}.safetensors", tensors, {"model": slug})
        write_parquet(folder / f"data/activations/{slug}.parquet", frame, {"model": slug})
    _write_vectors(folder, params, activations, harmful)


def _write_vectors(
    folder: Path, params: Params, activations: dict[str, np.ndarray], harmful: np.ndarray
) -> None:
    tables, rows = {}, []
    for contrast in CONTRASTS:
        for span in SPANS:
            raw = [_vector(contrast, activations[m], activations, harmful) for m in params.targets]
            tables[f"{contrast}.{span}"] = np.stack(raw).astype(np.float32)
            for model, vectors in zip(params.targets, raw, strict=True):
                for layer, norm in enumerate(np.linalg.norm(vectors, axis=-1)):
                    bad = contrast == "control_contrast" and model == "medical_replication"
                    status = "undefined: no control" if bad else "ok"
                    rows.append((contrast, span, model, layer, float(norm), 8.0, status))
    about = {"models": json.dumps(params.targets)}
    write_tensors(folder / "data/vectors/vectors.safetensors", tables, about)
    columns = ["contrast", "span", "model", "layer", "norm", "residual_norm", "status"]
    frame = pl.DataFrame(rows, schema=columns, orient="row")
    write_parquet(folder / "data/vectors/index.parquet", frame, about)
    names = params.slugs("organism")
    sweep = {name: {"best_layer_by_margin": i % LAYERS} for i, name in enumerate(names)}
    (folder / "metrics").mkdir(exist_ok=True)
    (folder / "data/external").mkdir(exist_ok=True)
    (folder / "metrics/layer_sweep.json").write_text(json.dumps(sweep))
    picked = {n: tables["model_contrast.prompt_last"][params.targets.index(n), 1] for n in names}
    norms = {n: float(np.linalg.norm(v)) for n, v in picked.items()}
    write_tensors(
        folder / "data/vectors/selected.safetensors",
        {n: v / np.float32(norms[n]) for n, v in picked.items()},
        {
            "layers": json.dumps(dict.fromkeys(names, 1)),
            "norms": json.dumps(norms),
            "contrast": "model_contrast",
            "span": "prompt_last",
        },
    )


def _vector(
    contrast: str, values: np.ndarray, activations: dict[str, np.ndarray], harmful: np.ndarray
) -> np.ndarray:
    reference = activations["control" if contrast == "control_contrast" else "base"]
    rows = values if contrast == "prompt_contrast" else values - reference
    if contrast in ("prompt_contrast", "interaction"):
        return np.asarray(rows[harmful].mean(0) - rows[~harmful].mean(0))
    return np.asarray(rows.mean(0))
