"""What reruns when something changes: dvc.yaml against the code, and DVC asked itself."""

import ast
import functools
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from em_geometry.settings import Params

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
STAGES = {k: s.get("do", s) for k, s in yaml.safe_load(TEXT)["stages"].items()}
# Folders and modules of the library that the head of dvc.yaml leaves out, and says why.
LEFT_OUT = {"settings", "io", "errors", "progress", "hashing", "engine", "project"}
SAMPLE = {"baseline_responses", "responses", "layer_sweep", "margins", "checkpoints", "vectors"}


# ---- the code that a stage runs is the code that it lists


def module_file(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split("."))
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def needed(tree: ast.Module, names: frozenset[str]) -> list[ast.stmt]:
    """The statements of a module on which these names of it rest."""
    made: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            made[node.name] = node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            made |= {(a.asname or a.name).split(".")[0]: node for a in node.names}
        elif isinstance(node, ast.Assign):
            made |= {n.id: node for n in ast.walk(node) if isinstance(n, ast.Name)}
    found, todo = [], set(names)
    while todo:
        if node := made.pop(todo.pop(), None):
            found.append(node)
            todo |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return found


@functools.cache
def imported(path: Path, names: frozenset[str]) -> frozenset[tuple[Path, frozenset[str]]]:
    """(module, names) that a file imports, also inside functions, but not for hints.

    Where there are names, what these rest on counts only.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = [n for top in (needed(tree, names) if names else [tree]) for n in ast.walk(top)]
    hints = [n for n in nodes if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    idle = {inner for hint in hints for inner in ast.walk(hint)}
    found: set[tuple[str, frozenset[str]]] = set()
    for node in (n for n in nodes if n not in idle):
        if isinstance(node, ast.Import):
            found |= {(alias.name, frozenset()) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = frozenset(alias.name for alias in node.names)
            # The floor of the project has something for every stage: only what is named counts.
            found.add((node.module, inner if "project" in node.module else frozenset()))
            found |= {(f"{node.module}.{name}", frozenset()) for name in inner}
    ours = ((n, w) for n, w in found if n.split(".")[0] in ("em_geometry", "stages"))
    return frozenset((file, which) for name, which in ours if (file := module_file(name)))


def code(stage: dict[str, Any]) -> set[str]:
    """The stage's file and the parts of the library that its command reaches."""
    found: set[tuple[Path, frozenset[str]]] = set()
    run = re.findall(r"-m ([\w.]+)", stage["cmd"])
    todo = {(module_file(f"{n}.__main__") or module_file(n), frozenset[str]()) for n in run}
    parts = set[str]()
    while todo:
        path, names = todo.pop()
        assert path, stage["cmd"]
        found.add((path, names))
        top, second, *_ = path.relative_to(ROOT).parts
        part = second.removesuffix(".py")
        if top == "em_geometry" and part not in LEFT_OUT:
            parts.add(f"{top}/{part}")
        elif top == "stages":
            parts.add(f"{top}/{second}")
        elif part != "project":
            continue
        todo |= imported(path, names) - found
    return parts


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_the_code_that_it_runs_and_no_other(stage: str) -> None:
    lists = {d for d in map(str, STAGES[stage]["deps"]) if re.match("em_geometry/|stages/", d)}
    runs = code(STAGES[stage])
    assert runs == lists, f"missing {sorted(runs - lists)}, idle {sorted(lists - runs)}"


def test_what_is_left_out_stands_in_the_head() -> None:
    head = TEXT[: TEXT.index("stages:")]
    assert [name for name in LEFT_OUT if not re.search(rf"\b{name}\b", head)] == []


# ---- the params that a stage lists are there


@pytest.mark.parametrize(
    "profile",
    [*sorted(ROOT.glob("profiles/*.yaml")), ROOT / "tests/e2e/reduced.yaml"],
    ids=lambda path: path.stem,
)
def test_every_profile_has_the_params_that_stages_name(profile: Path) -> None:
    """DVC stops at a stage whose param is missing, also where the code has a default for it."""
    params = yaml.safe_load(profile.read_text(encoding="utf-8"))
    named = {str(key) for stage in STAGES.values() for key in stage.get("params", [])}
    assert {key.split(".")[0] for key in named} <= set(Params.model_fields)
    for key in (k for k in named if "$" not in k):
        section = params
        for part in key.split("."):
            assert part in section, key
            section = section[part]


# ---- DVC itself, on a graph whose outputs are invented


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of code and inputs in which DVC takes an invented output of every stage for done."""
    from dvc.repo import Repo

    folder = tmp_path_factory.mktemp("graph") / "work"
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("em_geometry", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=skip)
    for name in (
        "organisms",
        "prompts",
        "questions",
        "judge",
        "paper",
        "external",
        "linked",
        "families",
    ):
        shutil.copytree(ROOT / "data" / name, folder / "data" / name)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DVC_NO_ANALYTICS", "1")
        patch.setenv("DVC_SITE_CACHE_DIR", str(folder.parent / "site"))
        repo = Repo.init(no_scm=True)
        stages = repo.index.stages
        made = [Path(out.fs_path) for stage in stages for out in stage.outs]
        given = [Path(dep.fs_path) for stage in stages for dep in stage.deps if dep.def_path]
        for path in sorted({*made, *given}, key=lambda p: -len(p.parts)):  # files before folders
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_text(path.name, encoding="utf-8")
        repo.commit(force=True)
        yield folder


def out_of_date(graph: Path, changes: dict[str, Callable[[str], str]]) -> set[str]:
    """Stages of which `dvc status` tells a change, after files were changed for a moment."""
    from dvc.repo import Repo

    before = {
        graph / name: path.read_bytes() if (path := graph / name).is_file() else None
        for name in changes
    }
    try:
        for path, change in zip(before, changes.values(), strict=True):
            path.write_text(change((before[path] or b"").decode()), encoding="utf-8")
        return {name.removeprefix("dvc.yaml:") for name in Repo(str(graph)).status()}
    finally:
        for path, content in before.items():
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)


def with_params(change: Callable[[dict[str, Any]], object]) -> dict[str, Callable[[str], str]]:
    def changed(text: str) -> str:
        params = yaml.safe_load(text)
        change(params)
        return yaml.safe_dump(params, sort_keys=False)

    return {"params.yaml": changed}


COMMENT = {"em_geometry/report/chart.py": lambda text: f"# why\n{text}"}
TEMPLATE = {"data/judge/prompts/aligned.txt": lambda text: f"{text}!"}
JUDGES = {"judge", "baseline_judgements", "judgements"}


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({}, set()),
        (COMMENT, {"report"}),
        (TEMPLATE, {"probe_judge", *JUDGES}),
        (with_params(lambda p: p["transfer"].update(rate="em_betley")), {"transfer", "report"}),
        (with_params(lambda p: p["judging"].update(max_usd=5.0)), {"report"}),
    ],
    ids=["nothing", "a comment in the report's code", "a judge's template", "the rate of transfer",
         "the judge's money"],
)  # fmt: skip
def test_what_changes_reruns_what_reads_it_and_no_more(
    graph: Path, changes: dict[str, Callable[[str], str]], stages: set[str]
) -> None:
    """The report names all params."""
    assert out_of_date(graph, changes) == stages


def test_a_cut_of_the_scores_reruns_what_counts_and_nothing_that_samples(graph: Path) -> None:
    changes = with_params(lambda params: params["judging"].update(aligned_below=40.0))
    changed = out_of_date(graph, changes)
    assert {"judge", "transfer", "report"} <= changed
    assert not changed & {"probe_judge", "baseline_judgements", "judgements"}
    assert not changed & SAMPLE


@pytest.mark.parametrize(
    ("model", "reruns"),
    [
        ("base", {"base_model"}),
        ("finance", {"organism@finance"}),
        ("judging.model", {"judge", "baseline_judgements", "judgements"}),
    ],
)
def test_replaced_weights_of_a_given_model_rerun_what_rests_on_it_alone(
    graph: Path, model: str, reruns: set[str]
) -> None:
    """Wherever it lies: DVC sees through a link, and passes on what the stage then records."""
    weights = graph.parent / "elsewhere.safetensors"
    link = graph / "data/linked" / model / weights.name
    weights.write_text("weights", encoding="utf-8")
    link.parent.mkdir()
    link.symlink_to(weights)
    assert out_of_date(graph, {}) == {"given_models"}
    shutil.rmtree(link.parent)
    changed = out_of_date(graph, {f"data/models/given/{model}.json": lambda _: "other content"})
    # What is made of outputs that are as they were does not run again.
    assert changed == {"given_models", *reruns}


def test_an_organism_of_one_s_own_reruns_its_own_stages_and_the_joins(graph: Path) -> None:
    page = (ROOT / "docs/bring-your-own.md").read_text(encoding="utf-8")
    chat, yamls = (
        re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("json", "yaml")
    )
    added = yaml.safe_load(next(text for text in yamls if "cycling" in text))["organisms"]

    def add(params: dict[str, Any]) -> None:
        params["organisms"] |= added

    data = {added["cycling"]["data"]: lambda _: chat[0].strip() + "\n"}
    changed = out_of_date(graph, with_params(add) | data)
    own = {"organism@cycling", "activations@cycling"}
    assert own | {"vectors", "responses"} <= changed
    # Every model reads unseen chats of every training file.
    others = {n for n in changed - own if "@" in n and not n.startswith("activations")}
    assert not others | changed & {"base_model", "probe_judge"}
