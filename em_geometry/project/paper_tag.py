"""`em-geometry paper-tag`: a paper as a revision that `dvc metrics diff` and `plots diff` read.

Writes objects and a local tag, nothing else: work tree, index and branches stay as they
are. The commit has no parent and a fixed date, so the same ledger and metrics give the same commit.
It holds the verdict's numbers (metrics/summary/), those of single claims (metrics/versus_paper/)
and metrics/claims.json with the published numbers at our keys, HEAD's other metrics as they are (so
that a diff shows what the paper prints, and that only), the published series under plots/, and a
dvc.yaml that lists them. That is the tag `paper` of the first paper; `paper-<slug>` holds another's
numbers in metrics/papers.json, and no more.
"""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from em_geometry.claims.ledger import Paper, read_paper
from em_geometry.claims.verdict import claim_values, series
from em_geometry.errors import UserError
from em_geometry.project import paths

TAG = "paper"
SUBJECT = "The paper's published values under this project's keys"
WHO = "EM Geometry <em-geometry@localhost> 1759276800 +0000"  # on 1 October 2025
SHOWN = ("metrics/summary/", "metrics/versus_paper/")  # folders that `dvc metrics` prints
Slug = Annotated[str, typer.Option("--paper", help="A file's name in data/papers, without ending.")]
POWER = "plots/power_published.csv"  # of the paper in every run


def paper_of(slug: str) -> Paper:
    """The paper of that slug; UserError names those that there are."""
    known = sorted(path.stem for path in paths.PAPERS.glob("*.yaml"))
    if slug not in known:
        what, expected = "there is no such paper", ", ".join(known)
        raise UserError(what, where=paths.PAPERS, found=slug, expected=expected)
    return read_paper(paths.PAPERS / f"{slug}.yaml")


def tag_of(slug: str) -> str:
    """The name of a paper's tag."""
    return TAG if slug == paths.FIRST else f"{TAG}-{slug}"


def write_tag(slug: str = paths.FIRST) -> str:
    """Writes a paper's tag in the repository of the working folder; returns its commit.

    Raises:
        UserError: no such paper, no Git repository, no commit yet, or somebody else's tag.
    """
    head = git("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    paper, tag = paper_of(slug), tag_of(slug)
    present = git("ls-tree", "-r", "--name-only", head, "--", "metrics", POWER).splitlines()
    if git("tag", "--list", tag) and git("log", "-1", "--format=%s", tag) != SUBJECT:
        raise UserError(
            f"the tag {tag!r} exists and is not of this command",
            where="git tag",
            found=git("log", "-1", "--format=%h %s", tag),
            hint=f"rename it (git tag <other> {tag} && git tag -d {tag}), then run this again",
        )

    def shown(path: str) -> Any:
        return json.loads(git("show", f"{head}:{path}")) if path in present else {}

    values = [(claim, claim.printed) for claim in paper.claims]
    if slug == paths.FIRST:
        rows = {path: shown(path) for path in present if path.startswith(SHOWN)}
        found = {
            path: row | {"value": row.get("paper", row["value"])} for path, row in rows.items()
        }
        name = paths.metrics("claims").as_posix()
        found[name] = shown(name) | claim_values(values)
        texts = {f"plots/claims_{unit}.csv": text for unit, text in series(values).items()}
    else:
        name = paths.metrics("papers").as_posix()
        found, texts = {name: shown(name) | {slug: claim_values(values)}}, {}
    texts |= {path: json.dumps(row, indent=1) + "\n" for path, row in found.items()}
    outline = listed(yaml.safe_load(git("show", f"{head}:dvc.yaml")), sorted({*present, *texts}))
    texts["dvc.yaml"] = yaml.safe_dump(outline, sort_keys=False)
    lines = [f"commit refs/tags/{tag}", f"committer {WHO}", _data(SUBJECT)]
    lines += [f"M 100644 {git('rev-parse', f'{head}:{path}')} {path}" for path in present]
    lines += [f"M 100644 inline {path}\n{_data(text)}" for path, text in texts.items()]
    git("fast-import", "--quiet", "--force", given="\n".join(lines) + "\n")
    return git("rev-parse", tag)


def _data(text: str) -> str:
    return f"data {len(text.encode())}\n{text}"


def listed(graph: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A dvc.yaml of the metrics and plots of `graph` that there are files for."""
    stages = [stage.get("do", stage) for stage in graph["stages"].values()]
    every = [entry for part in (graph, *stages) for entry in part.get("plots", [])]
    plots = [(name, how) for entry in every for name, how in entry.items()]
    return {
        "metrics": [name for name in names if name.startswith(SHOWN)],
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


def cli(paper: Slug = paths.FIRST) -> None:
    """Write the local Git tag `paper`, or `paper-<slug>`, which holds the published values."""
    commit, tag = write_tag(paper), tag_of(paper)
    print(f"tag {tag}: {commit[:12]}; compare with: dvc metrics diff {tag}")
    name = "claims" if paper == paths.FIRST else "papers"
    print(f"all claims: dvc metrics diff {tag} --targets {paths.metrics(name)}")
