"""The page: everything a reader gets, in one self-contained file."""

import base64
import importlib.metadata
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from em_geometry.claims.lookup import Metrics
from em_geometry.claims.verdict import Judged, numbers_text, verdict_counts
from em_geometry.hashing import value_sha256
from em_geometry.io.files import read_json, read_yaml
from em_geometry.report.chart import Figure
from em_geometry.report.findings import findings, summary
from em_geometry.report.samples import Answer
from em_geometry.report.tables import Results, all_tables, as_written
from em_geometry.report.text import joined, layout, words
from em_geometry.settings import Params

PACKAGES = ("torch", "transformers", "peft", "numpy", "polars", "scikit-learn", "matplotlib", "dvc")
SHOWN = 16  # hex digits of a hash


def render(
    params: Params,
    metrics: Metrics,
    model: str,
    claims: Sequence[Judged],
    figures: Sequence[Figure],
    answers: Sequence[Answer],
    files: Mapping[str, str],
    made_from: Mapping[str, str],
) -> str:
    """The page as text.

    Args:
        model: name of the measured base model.
        claims: judged ones; none where the stage has not run.
        answers: sampled answers, in order.
        files: further files to download, name -> text; some of them are tables of the page too.
        made_from: what the numbers were made from, by label.
    """
    found, asked = Results(metrics.stages, params), params.more.experiments
    tables = all_tables(found)
    downloads = [(name, "as in plots/", text) for name, text in files.items()]
    downloads += [(f"{table.name}.csv", table.caption, table.csv()) for table in tables]
    downloads += [(f"{f.name}.csv", f"data of {f.title}", f.csv) for f in figures if f.rows]
    return found.environment.get_template("page.html.j2").render(
        findings(found),
        sections={k: v for k, v in layout()["sections"].items() if k != "more" or asked},
        verdict=summary(found, claims, model).sentences,
        glossary=words("glossary.yaml"),
        model=model,
        claims=claims,
        numbers_text=numbers_text,
        claim_counts=verdict_counts(claims),
        tables=[*tables, *as_written(files)],
        figures=figures,
        answers=answers,
        downloads=[(name, what, _address(text)) for name, what, text in downloads],
        provenance=made_from,
    )


def _address(text: str) -> str:
    """A CSV file's address inside the page."""
    data = base64.b64encode(text.encode("utf-8", "replace")).decode()
    return f"data:text/csv;charset=utf-8;base64,{data}"


def provenance(params: Params, judge: str | None, base_record: Path, lock: Path) -> dict[str, str]:
    """Text by label; two runs of the same inputs at the same commit give the same.

    Args:
        base_record: of the base model's folder.
        lock: dvc.lock.
    """
    base = params.base.source
    if base_record.is_file():
        base += f", sha256 {str(read_json(base_record, dict).get('sha256', 'unknown'))[:SHOWN]}"
    rows = {
        "Profile": f"{params.profile}, seed {params.run.seed}, {params.run.dtype} weights",
        "Params": f"sha256 {_hash(params.model_dump(mode='json', exclude={'workers'}))}",
        "Base model": base,
        "Judge": judge or "none in this run",
        "Packages": joined([f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]),
        "Code": _commit(),
        "Inputs": "no dvc.lock",
    }
    if lock.is_file():
        before = dict(read_yaml(lock, dict).get("stages", {}))
        before.pop("report", None)
        rows["Inputs"] = f"dvc.lock without this stage, sha256 {_hash(before)}"
    return {label: text for label, text in rows.items() if text}


def _hash(value: object) -> str:
    return value_sha256(value)[:SHOWN]


def _commit() -> str:
    """The commit that the page was made at."""
    command = ["git", "log", "-1", "--format=%h of %cs"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError:
        return "no git"
    return f"commit {done.stdout.strip()}" if done.returncode == 0 else "not in a Git repository"
