"""`em-geometry paper-tag`: the paper as a revision that `dvc metrics diff` and `plots diff` read.

Writes objects and the local tag `paper`, nothing else: work tree, index and branches stay as they
are. The commit has no parent and a fixed date, so the same ledger and metrics give the same commit.
It holds metrics/claims.json with the published numbers at our keys, HEAD's other metrics files as
they are (so that a diff shows the claims only), the published series under plots/, and a dvc.yaml
that lists them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from em_geometry.claims.ledger import Claim, read_claims
from em_geometry.claims.verdict import claim_values, series
from em_geometry.errors import UserError
from em_geometry.project import paths

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
POWER = "plots/power_published.csv"  # of the paper in every run


def printed(claim: Claim) -> list[float | None]:
    """The published number of each metric of the claim; a range stands as its middle."""
    numbers = claim.numbers
    if claim.reads == "equal" or not numbers:
        return [*numbers] if claim.metrics else []
    return [sum(numbers) / len(numbers)] * len(claim.metrics)


def files_of(claims: Sequence[Claim]) -> dict[str, str]:
    """Path -> text of everything the revision holds, but for what it keeps of HEAD."""
    values = [(claim, printed(claim)) for claim in claims]
    texts = {"metrics/claims.json": json.dumps(claim_values(values), indent=1) + "\n"}
    return texts | {f"plots/claims_{unit}.csv": text for unit, text in series(values).items()}


def write_tag(folder: Path = Path()) -> str:
    """Writes the tag in the repository of `folder`; returns its commit.

    Raises:
        UserError: no Git repository, no commit yet, or a tag `paper` that is somebody else's.
    """
    head = git(folder, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    present = git(folder, "ls-tree", "-r", "--name-only", head, "--", "metrics", POWER).splitlines()
    old = git(folder, "tag", "--list", TAG)
    if old and git(folder, "log", "-1", "--format=%s", TAG) != SUBJECT:
        raise UserError(
            f"the tag {TAG!r} exists and is not of this command",
            where="git tag",
            found=git(folder, "log", "-1", "--format=%h %s", TAG),
            hint=f"rename it (git tag <other> {TAG} && git tag -d {TAG}), then run this again",
        )
    texts = files_of(read_claims(folder / paths.CLAIMS))
    blobs = {path: git(folder, "rev-parse", f"{head}:{path}") for path in present}
    blobs |= {p: git(folder, "hash-object", "-w", "--stdin", given=t) for p, t in texts.items()}
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


def _outline(folder: Path, head: str, names: Sequence[str]) -> dict[str, Any]:
    """A dvc.yaml of the revision's metrics and of HEAD's plots that it has files for."""
    ours = yaml.safe_load(git(folder, "show", f"{head}:dvc.yaml") or "{}")
    stages = [s.get("do", s) for s in ours.get("stages", {}).values()]
    entries = [e for s in [ours, *stages] for e in _entries(s.get("plots", []))]
    plots = [{name: how} for name, how in entries if _data(name, how) <= set(names)]
    listed = [name for s in stages for name, _ in _entries(s.get("metrics", []))]
    patterns = [re.sub(r"\$\{\w+\}", "*", name) for name in listed]
    metrics = [name for name in names if any(fnmatchcase(name, p) for p in patterns)]
    return {"metrics": metrics, "plots": plots}


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
