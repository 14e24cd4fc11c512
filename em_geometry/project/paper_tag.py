"""`em-geometry paper-tag`: the paper as a revision that `dvc metrics diff` and `plots diff` read.

Writes objects and the local tag `paper`, nothing else: work tree, index and branches stay as they
are. The commit has no parent and a fixed date, so the same ledger and metrics give the same commit.
It holds the verdict's numbers (metrics/summary/) and metrics/claims.json with the published numbers
at our keys, HEAD's other metrics as they are (so that a diff shows what the paper prints, and that
only), the published series under plots/, and a dvc.yaml that lists them.
"""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from em_geometry.claims.ledger import read_claims
from em_geometry.claims.verdict import claim_values, series
from em_geometry.errors import UserError
from em_geometry.project import paths

TAG = "paper"
SUBJECT = "The paper's published values under this project's keys"
WHO = "EM Geometry <em-geometry@localhost> 1759276800 +0000"  # on 1 October 2025
SUMMARY = "metrics/summary/"  # the folder of metrics that `dvc metrics` prints
POWER = "plots/power_published.csv"  # of the paper in every run


def write_tag() -> str:
    """Writes the tag in the repository of the working folder; returns its commit.

    Raises:
        UserError: no Git repository, no commit yet, or a tag `paper` that is somebody else's.
    """
    head = git("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    present = git("ls-tree", "-r", "--name-only", head, "--", "metrics", POWER).splitlines()
    if git("tag", "--list", TAG) and git("log", "-1", "--format=%s", TAG) != SUBJECT:
        raise UserError(
            f"the tag {TAG!r} exists and is not of this command",
            where="git tag",
            found=git("log", "-1", "--format=%h %s", TAG),
            hint=f"rename it (git tag <other> {TAG} && git tag -d {TAG}), then run this again",
        )
    values = [(claim, claim.printed) for claim in read_claims(paths.CLAIMS)]
    name = paths.metrics("claims").as_posix()
    ours = json.loads(git("show", f"{head}:{name}")) if name in present else {}
    texts = {name: json.dumps(ours | claim_values(values), indent=1) + "\n"}
    for path in (p for p in present if p.startswith(SUMMARY)):
        row = json.loads(git("show", f"{head}:{path}"))
        texts[path] = json.dumps(row | {"value": row.get("paper", row["value"])}, indent=1) + "\n"
    texts |= {f"plots/claims_{unit}.csv": text for unit, text in series(values).items()}
    outline = listed(yaml.safe_load(git("show", f"{head}:dvc.yaml")), sorted({*present, *texts}))
    texts["dvc.yaml"] = yaml.safe_dump(outline, sort_keys=False)
    lines = [f"commit refs/tags/{TAG}", f"committer {WHO}", _data(SUBJECT)]
    lines += [f"M 100644 {git('rev-parse', f'{head}:{path}')} {path}" for path in present]
    lines += [f"M 100644 inline {path}\n{_data(text)}" for path, text in texts.items()]
    git("fast-import", "--quiet", "--force", given="\n".join(lines) + "\n")
    return git("rev-parse", TAG)


def _data(text: str) -> str:
    return f"data {len(text.encode())}\n{text}"


def listed(graph: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A dvc.yaml of the metrics and plots of `graph` that there are files for."""
    stages = [stage.get("do", stage) for stage in graph["stages"].values()]
    every = [entry for part in (graph, *stages) for entry in part.get("plots", [])]
    plots = [(name, how) for entry in every for name, how in entry.items()]
    return {
        "metrics": [name for name in names if name.startswith(SUMMARY)],
        "plots": [
            {name: {k: v for k, v in how.items() if k != "cache"}}
            for name, how in plots  # one file, or a title with columns by file
            if {*(how["y"] if isinstance(how.get("y"), dict) else [name])} <= {*names}
        ],
    }


def git(*arguments: str, given: str | None = None) -> str:
    """What a Git command prints; UserError with its words when it fails."""
    try:
        done = subprocess.run(  # noqa: S603 (fixed program, no shell)
            ["git", *arguments],  # noqa: S607 (the user's Git)
            input=given,
            encoding="utf-8",
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        raise UserError("git is not installed", where="PATH") from None
    if done.returncode:
        raise UserError(
            f"git {arguments[0]} failed",
            where=str(Path.cwd()),
            found=done.stderr.strip() or "no commit yet",
            hint="run it in a Git repository that has a commit",
        )
    return done.stdout.strip("\n")


def cli() -> None:
    """Write the local Git tag `paper`, which holds the published values."""
    print(f"tag {TAG}: {write_tag()[:12]}; compare with: dvc metrics diff {TAG}")
    print(f"all claims: dvc metrics diff {TAG} --targets {paths.metrics('claims')}")
