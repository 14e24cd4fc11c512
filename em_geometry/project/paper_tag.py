"""`make paper-tag`: the paper as a Git revision that `dvc metrics diff` and `dvc plots diff` read.

    python -m em_geometry.project.paper_tag

Writes objects and the local tag `paper`, nothing else: work tree, index and branches stay as they
are. The commit has no parent and a fixed date, so the same ledger gives the same commit. It holds
our metrics files with the published values at our keys (a range stands as its middle, a bound as
itself), the published series under plots/, and a dvc.yaml that lists them.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from em_geometry.claims.ledger import Claim, read_claims
from em_geometry.errors import UserError
from em_geometry.geometry.table import csv_text
from em_geometry.io.files import nest
from em_geometry.project.command import run

TAG = "paper"
SUBJECT = "The paper's published values under this project's keys"
FIXED = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (
        ("NAME", "EM Geometry"),
        ("EMAIL", "em-geometry@localhost"),
        ("DATE", "2025-10-01T00:00:00+0000"),
    )
}
KEPT = ("metrics/published.json", "plots/power_published.csv")  # of the paper in every run
UNITS = ("cosine", "deg", "percent")  # units with enough claims for a chart
ORDER = ("equal", "between", "above", "below")  # which claim speaks for a key that several name


def printed(claim: Claim) -> list[float]:
    """The published number of each metric of the claim."""
    numbers = claim.numbers
    if not claim.metrics or not numbers:
        return []
    if claim.reads == "equal":
        return numbers
    return [sum(numbers) / len(numbers)] * len(claim.metrics)


def series_files(values: Iterable[tuple[Claim, Sequence[float | None]]]) -> dict[str, str]:
    """plots/claims_<unit>.csv: a bar a claim and number, for any revision.

    Args:
        values: each claim with a number for each of its metrics, None where there is none.
    """
    rows: dict[str, list[tuple[str, float]]] = {unit: [] for unit in UNITS}
    for claim, numbers in values:
        for metric, value in zip(claim.metrics, numbers, strict=False):
            if claim.unit in rows and value is not None:
                label = metric.partition(":")[2].removesuffix(".value_pct").replace("__", "/")
                rows[claim.unit].append((f"{claim.id} {label}", round(value, 6)))
    return {
        f"plots/claims_{unit}.csv": csv_text(["claim", "value"], found)
        for unit, found in rows.items()
    }


def files_of(claims: Sequence[Claim]) -> dict[str, str]:
    """Path -> text of everything the revision holds, but for what it keeps of HEAD."""
    found: dict[str, dict[str, Any]] = {}
    for claim in sorted(claims, key=lambda c: ORDER.index(c.reads) if c.reads in ORDER else -1):
        for metric, value in zip(claim.metrics, printed(claim), strict=False):
            file, _, key = metric.partition(":")
            found.setdefault(file, {}).setdefault(key, value)
    metrics = {name: nest(flat) for name, flat in found.items()}
    metrics["claims"] = {"model": "as published", "claim": {c.id: _entry(c) for c in claims}}
    texts = {f"metrics/{k}.json": json.dumps(v, indent=1) + "\n" for k, v in metrics.items()}
    return texts | series_files((claim, printed(claim)) for claim in claims)


def _entry(claim: Claim) -> dict[str, Any]:
    """As in metrics/claims.json of a run; equal texts make no row in a diff."""
    numbers, same = printed(claim), ("section", "quantity", "unit", "formula", "needs", "reads")
    entry = {k: getattr(claim, k) for k in same} | {"verdict_run": "as published"}
    parts: list[dict[str, Any]] = [
        {"metric": metric, "ours": number}
        | ({"published": number} if claim.reads == "equal" else {})
        for metric, number in zip(claim.metrics, numbers, strict=False)
    ]
    if len(parts) == 1:
        return entry | parts[0]
    return entry | ({"part": {str(i): part for i, part in enumerate(parts, 1)}} if parts else {})


def write_tag(folder: Path = Path()) -> str:
    """Writes the tag in the repository of `folder`; returns its commit.

    Raises:
        UserError: no Git repository, no commit yet, or a tag `paper` that is somebody else's.
    """
    head = git(folder, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    present = git(folder, "ls-tree", "-r", "--name-only", head, "--", *KEPT).splitlines()
    old = git(folder, "tag", "--list", TAG)
    if old and git(folder, "log", "-1", "--format=%s", TAG) != SUBJECT:
        raise UserError(
            f"the tag {TAG!r} exists and is not of this command",
            where="git tag",
            found=git(folder, "log", "-1", "--format=%h %s", TAG),
            hint=f"rename it (git tag <other> {TAG} && git tag -d {TAG}), then run this again",
        )
    texts = files_of(read_claims())
    blobs = {p: git(folder, "hash-object", "-w", "--stdin", given=t) for p, t in texts.items()}
    blobs |= {path: git(folder, "rev-parse", f"{head}:{path}") for path in present}
    outline = yaml.safe_dump(_outline(folder, head, sorted(blobs)), sort_keys=False)
    blobs["dvc.yaml"] = git(folder, "hash-object", "-w", "--stdin", given=outline)
    with tempfile.TemporaryDirectory() as scratch:
        index = {"GIT_INDEX_FILE": str(Path(scratch, "index"))}
        lines = "".join(f"100644 {blob}\t{path}\n" for path, blob in blobs.items())
        git(folder, "update-index", "--index-info", given=lines, **index)
        tree = git(folder, "write-tree", **index)
    commit = git(folder, "commit-tree", tree, "-m", SUBJECT, **FIXED)
    git(folder, "update-ref", f"refs/tags/{TAG}", commit)
    return commit


def _outline(folder: Path, head: str, paths: Sequence[str]) -> dict[str, Any]:
    """A dvc.yaml of the revision's metrics and of HEAD's plots that it has files for."""
    ours = yaml.safe_load(git(folder, "show", f"{head}:dvc.yaml") or "{}")
    stages = [s.get("do", s) for s in ours.get("stages", {}).values()]
    entries = [e for s in [ours, *stages] for e in _entries(s.get("plots", []))]
    plots = [{name: how} for name, how in entries if _data(name, how) <= set(paths)]
    return {"metrics": [p for p in paths if p.startswith("metrics/")], "plots": plots}


def _entries(plots: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for plot in plots if isinstance(plots, list) else [plots]:
        for name, how in plot.items() if isinstance(plot, dict) else [(plot, {})]:
            yield name, {k: v for k, v in (how or {}).items() if k not in ("cache", "persist")}


def _data(name: str, how: dict[str, Any]) -> set[str]:
    """The files that a plot reads."""
    return set(how["y"]) if isinstance(how.get("y"), dict) else {name}


def git(folder: Path, *arguments: str, given: str | None = None, **variables: str) -> str:
    """What a Git command prints; UserError with its words when it fails."""
    try:
        done = subprocess.run(  # noqa: S603 (fixed program, no shell)
            ["git", *arguments],  # noqa: S607 (the user's Git)
            cwd=folder,
            input=given,
            env={**os.environ, **variables},
            text=True,
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        raise UserError("git is not installed", where="PATH") from None
    if done.returncode:
        raise UserError(
            f"git {arguments[0]} failed",
            where=str(folder.resolve()),
            found=done.stderr.strip() or "no commit yet",
            hint="run it in a Git repository that has a commit",
        )
    return done.stdout.strip("\n")


def cli() -> None:
    """Write the local Git tag `paper`, which holds the published values."""
    print(f"tag {TAG}: {write_tag()[:12]}; compare with: dvc metrics diff {TAG}")


if __name__ == "__main__":
    run(cli)
