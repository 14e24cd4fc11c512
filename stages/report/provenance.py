"""What the page's numbers were made from: params, models, judge, packages."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from stages.claims.lookup import Metrics
from stages.common.artifacts import read_json
from stages.common.hashing import value_sha256
from stages.common.params import Params
from stages.report.text import joined

BASE_RECORD = Path("data/models/base/record.json")
RESPONSES = Path("data/responses")  # their files name the model that gave them
PACKAGES = ("torch", "transformers", "peft", "numpy", "polars", "scikit-learn", "matplotlib", "dvc")
SHOWN = 16  # hex digits of a hash


def provenance(params: Params, metrics: Metrics) -> list[tuple[str, str]]:
    """(label, text) rows; nothing in them changes between two runs of the same inputs."""
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    rows = [
        ("Profile", f"{params.profile}, seed {params.run.seed}, {params.run.dtype} weights"),
        ("Params", f"sha256 {value_sha256(params.model_dump(mode='json'))[:SHOWN]}"),
        ("Base model", f"{params.base.source}{_base_hash()}"),
        ("Judge", metrics.text("judge", "judge") or "none in this run"),
        ("Packages", joined(versions)),
    ]
    hashes = _model_hashes(params)
    if hashes:
        rows.insert(3, ("Models, sha256", ", ".join(f"{m} {h}" for m, h in hashes.items())))
    return rows


def _base_hash() -> str:
    if not BASE_RECORD.is_file():
        return ""
    return f", sha256 {str(read_json(BASE_RECORD).get('sha256', 'unknown'))[:SHOWN]}"


def _model_hashes(params: Params, folder: Path = RESPONSES) -> dict[str, str]:
    """Hash of every model as its answers' file records it."""
    import pyarrow.parquet as pq

    found = {}
    for target in params.targets:
        path = folder / f"{target}.parquet"
        metadata = pq.read_schema(path).metadata if path.is_file() else None
        value = (metadata or {}).get(b"model_sha256")
        if value:
            found[target] = value.decode()[:SHOWN]
    return found
