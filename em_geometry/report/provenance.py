"""What the page's numbers were made from: params, models, judge, packages."""

from __future__ import annotations

import importlib.metadata
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from em_geometry.hashing import value_sha256
from em_geometry.io.files import read_json, read_yaml
from em_geometry.report.text import joined
from em_geometry.settings import Params

PACKAGES = ("torch", "transformers", "peft", "numpy", "polars", "scikit-learn", "altair", "dvc")
SHOWN = 16  # hex digits of a hash


def provenance(
    params: Params, judge: str | None, base_record: Path, lock: Path, responses: Path
) -> list[tuple[str, str]]:
    """(label, text) rows; two runs of the same inputs at the same commit give the same.

    Args:
        base_record: of the base model's folder.
        lock: dvc.lock.
        responses: folder of answers, whose files name the models that gave them.
    """
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    shown = params.model_dump(mode="json", exclude={"workers"})  # they change no byte
    base = params.base.source
    if base_record.is_file():
        base += f", sha256 {str(read_json(base_record, dict).get('sha256', 'unknown'))[:SHOWN]}"
    models = _model_hashes(params.targets, responses)
    rows = [
        ("Profile", f"{params.profile}, seed {params.run.seed}, {params.run.dtype} weights"),
        ("Params", f"sha256 {value_sha256(shown)[:SHOWN]}"),
        ("Base model", base),
        ("Models, sha256", ", ".join(f"{m} {h}" for m, h in models.items())),
        ("Judge", judge or "none in this run"),
        ("Packages", joined(versions)),
        ("Code", _commit()),
        ("Inputs", _lock_hash(lock)),
    ]
    return [(label, text) for label, text in rows if text]


def _commit() -> str:
    """The commit that the page was made at."""
    command = ["git", "log", "-1", "--format=%h of %cs"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError:
        return "no git"
    return f"commit {done.stdout.strip()}" if done.returncode == 0 else "not in a Git repository"


def _lock_hash(lock: Path) -> str:
    """Hash of what dvc.lock says of all stages before this one."""
    if not lock.is_file():
        return "no dvc.lock"
    stages = read_yaml(lock, dict).get("stages", {})
    before = {name: stage for name, stage in stages.items() if name != "report"}
    return f"dvc.lock without this stage, sha256 {value_sha256(before)[:SHOWN]}"


def _model_hashes(targets: Sequence[str], folder: Path) -> dict[str, str]:
    """Hash of every model as its answers' file records it."""
    hashes = {}
    for target in targets:
        path = folder / f"{target}.parquet"
        metadata = pq.read_schema(path).metadata if path.is_file() else None
        value = (metadata or {}).get(b"model_sha256")
        if value:
            hashes[target] = value.decode()[:SHOWN]
    return hashes
