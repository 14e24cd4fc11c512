"""`make deps`: writes the code that each stage runs into dvc.yaml, read from the imports.

    python -m stages.common.deps

A stage that does not list a module that it uses gives stale results when the module changes; one
that lists others runs for nothing. `stages/common` is left out on purpose: it reads, writes and
reports, and what changes results there changes a stage's own code too.
"""

from __future__ import annotations

import ast
import functools
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.common.artifacts import write_text
from stages.common.command import run

GRAPH = Path("dvc.yaml")
PACKAGE, IGNORED = "stages", ("stages/common/",)
WIDE = 100  # characters of a line


def used(stage: Mapping[str, Any]) -> set[str]:
    """Files that a stage of dvc.yaml runs, from its command and what that imports."""
    todo = {file for name in re.findall(r"-m (stages[\w.]+)", stage["cmd"]) for file in _file(name)}
    found: set[Path] = set()
    while todo:
        path = todo.pop()
        found.add(path)
        todo |= _imported(path) - found
    return {p.as_posix() for p in found if not p.as_posix().startswith(IGNORED)}


def listed(stage: Mapping[str, Any]) -> set[str]:
    """Files that a stage of dvc.yaml lists; a folder stands for all its modules."""
    named = [Path(d) for d in map(str, stage.get("deps", [])) if d.startswith(f"{PACKAGE}/")]
    files = {f for p in named for f in (p.rglob("*.py") if p.is_dir() else [p])}
    return {f.as_posix() for f in files if f.name != "__init__.py"}


def compact(files: set[str]) -> list[str]:
    """The files in order; a folder instead of its modules where all of them are meant."""
    found = []
    for folder in sorted({Path(f).parent for f in files}):
        mine = {f for f in files if Path(f).parent == folder}
        inside = {f.as_posix() for f in folder.rglob("*.py") if f.name != "__init__.py"}
        whole = len(mine) > 1 and inside == mine
        found += [folder.as_posix()] if whole else sorted(mine)
    return found


def _file(name: str) -> set[Path]:
    path = Path(*name.split(".")).with_suffix(".py")
    return {path} if path.is_file() else set()


@functools.cache
def _imported(path: Path) -> frozenset[Path]:
    """Modules of this project that a file imports, also inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    idle = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in (n for n in ast.walk(tree) if n not in idle):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(f for name in names if name.startswith(PACKAGE) for f in _file(name))


def main(graph: Path = GRAPH) -> None:
    """Rewrites the code among the deps of every stage; the rest of the file stays as it is."""
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedSeq

    round_trip = YAML()  # keeps comments; builds no objects
    round_trip.preserve_quotes, round_trip.width = True, WIDE
    round_trip.indent(mapping=2, sequence=4, offset=2)
    whole = round_trip.load(graph)
    changed = []
    for name, entry in whole["stages"].items():
        stage = entry.get("do", entry)
        if used(stage) != listed(stage):
            others = [d for d in stage.get("deps", []) if not listed({"deps": [d]})]
            stage["deps"] = CommentedSeq([*compact(used(stage)), *others])
            stage["deps"].fa.set_flow_style()
            changed.append(name)
    if changed:
        text = io.StringIO()
        round_trip.dump(whole, text)
        write_text(graph, re.sub(r" +\n", "\n", text.getvalue()))
    print(f"{graph}: {', '.join(changed) or 'nothing'} changed")


def cli() -> None:
    """Write the code that each stage runs into dvc.yaml, read from the imports."""
    main()


if __name__ == "__main__":
    run(cli)
