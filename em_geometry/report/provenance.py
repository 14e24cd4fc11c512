"""What the page's numbers were made from: params, models, judge, packages."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path

import yaml

from em_geometry.hashing import value_sha256
from em_geometry.io.files import read_json
from em_geometry.report.lookup import Metrics
from em_geometry.report.text import joined
from em_geometry.settings.params import Params

BASE_RECORD = Path("data/models/base/record.json")
RESPONSES = Path("data/responses")  # their files name the model that gave them
PACKAGES = ("torch", "transformers", "peft", "numpy", "polars", "scikit-learn", "altair", "dvc")
SHOWN = 16  # hex digits of a hash


def provenance(params: Params, metrics: Metrics) -> list[tuple[str, str]]:
    """(label, text) rows; two runs of the same inputs at the same commit give the same."""
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    shown = params.model_dump(mode="json", exclude={"workers"})  # they change no byte
    rows = [
        ("Profile", f"{params.profile}, seed {params.run.seed}, {params.run.dtype} weights"),
        ("Params", f"sha256 {value_sha256(shown)[:SHOWN]}"),
        ("Base model", f"{params.base.source}{_base_hash()}"),
        ("Judge", metrics.text("judge", "judge") or "none in this run"),
        ("Packages", joined(versions)),
        ("Code", _commit()),
        ("Inputs", _lock_hash()),
    ]
    hashes = _model_hashes(params)
    if hashes:
        rows.insert(3, ("Models, sha256", ", ".join(f"{m} {h}" for m, h in hashes.items())))
    return rows


def _commit() -> str:
    """The commit that the page was made at."""
    command = ["git", "log", "-1", "--format=%h of %cs"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError:
        return "no git"
    return f"commit {done.stdout.strip()}" if done.returncode == 0 else "not in a Git repository"


def _lock_hash(lock: Path = Path("dvc.lock")) -> str:
    """Hash of what dvc.lock says of all stages before this one."""
    if not lock.is_file():
        return "no dvc.lock"
    stages = yaml.safe_load(lock.read_text(encoding="utf-8")).get("stages", {})
    before = {name: stage for name, stage in stages.items() if name != "report"}
    return f"dvc.lock without this stage, sha256 {value_sha256(before)[:SHOWN]}"


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
