"""Each stage lists in dvc.yaml the params that it reads, and no others: DVC looks at no more."""

import ast
from pathlib import Path

import pytest
import yaml

from em_geometry.settings import Params
from tests.conftest import ROOT

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
# What the methods of Params read of it, and `models`: the organisms' sources reach a stage through
# data/adapters, on which it depends.
BEHIND: dict[str, set[str]] = {
    "slugs": {"organisms"},
    "model_name": {"report.model"},
    "originals": {"organisms"},
    "repeats": {"organisms"},
    "clusters": {"organisms"},
    "labs": {"organisms"},
    "answering": {"organisms"},
    "steered": {"organisms"},
    "margin_targets": {"organisms", "margins.controls"},
    "targets": {"organisms", "random_adapters"},
    "spans": {"activations.spans", "activations.texts"},
    "named_pairs": {"transfer.pairs"},
    "sources": {"base.source", "organisms", "judging.model"},
    "target": {"organisms", "random_adapters"},
    "models": {"run", "base"},
    "load_params": set(),
    "RUN[name]": set(),  # the experiments of `more`, whose modules are read with it
}
SHARED = ("inputs", "judged", "evidence")  # modules whose functions take all params
# Read, but for nothing that a stage writes.
BESIDES = {
    "more": {"more.experiments"},  # which it runs when it is called for none
    "base_model": {"run", "profile"},  # does the run fit this machine?
    "activations": {"random_adapters"},  # which models it reads when it is called for none
    "responses": {"random_adapters"},  # which models there are, for a name on the command line
}


def read_keys(code: str) -> set[str]:
    """Keys of params that a stage's file names; a whole section where it is handed on."""
    tree = ast.parse(code)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    own = {"main"} | {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    read: set[str] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Name) or node.id != "params":
            continue
        above, names = parents[node], list[str]()
        while isinstance(above, ast.Attribute):
            names.append(above.attr)
            above = parents[above]
        if not names and isinstance(above, ast.Call):
            called = ast.unparse(above.func)
            if called not in own:  # the whole of it: no function of the library takes that
                read |= BEHIND.get(called, {f"all, in {called}"})
        elif names and names[0] in Params.model_fields:
            read.add(".".join(names[:2]))
        elif names:
            read |= BEHIND.get(names[0], set())
    return read - {"workers"}  # it changes no number


def learn_shared() -> None:
    """What the functions that stages share read of the params, through each other too."""
    files = [ROOT / f"em_geometry/project/{name}.py" for name in SHARED]
    nodes = [n for file in files for n in ast.parse(file.read_text(encoding="utf-8")).body]
    for _ in range(2):  # the second time with what the first has found
        for node in nodes:
            if isinstance(node, ast.FunctionDef) and node.name != "models":
                BEHIND[node.name] = read_keys("\n".join(map(ast.unparse, node.body)))


def within(key: str, keys: set[str]) -> bool:
    """Whether one of `keys` is this key, one above it, or one below it."""
    return any(f"{k}.".startswith(f"{key}.") or f"{key}.".startswith(f"{k}.") for k in keys)


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_read_is_listed(stage: str) -> None:
    learn_shared()
    entry = STAGES[stage].get("do", STAGES[stage])
    file = entry["deps"][0]
    path = ROOT / file
    files = [*sorted(path.glob("[a-z]*.py")), path / "__main__.py"] if path.is_dir() else [path]
    code = "\n".join(each.read_text(encoding="utf-8") for each in files)
    assert code.rpartition("\n@stage\n")[2].startswith("def main("), "what is below it never is run"
    listed = {key.partition(".$")[0] for key in map(str, entry.get("params", []))}
    read = read_keys(code) - BESIDES.get(Path(file).stem, set())
    if stage == "report":  # it prints them all, but for what changes no number of its own
        assert listed == set(Params.model_fields) - {"workers"}
        return
    assert {key for key in read if not within(key, listed)} == set(), "read, not listed"
    assert {key for key in listed if not within(key, read)} == set(), "listed, not read"
    kinds = {key: Params.model_fields[key].annotation for key in listed & set(Params.model_fields)}
    parts = {key: getattr(kind, "model_fields", {}) for key, kind in kinds.items()}
    whole = {key for key, names in parts.items() if not {f"{key}.{n}" for n in names} <= read}
    assert whole - read == set(), "listed whole, read in part"


def test_the_test_sees_what_is_missing() -> None:
    code = "known = models(params)\nf(params.judging.aspects, params.run)\ng(params)"
    assert read_keys(code) == {"run", "base", "judging.aspects", "all, in g"}
    assert within("judging.aspects", {"judging"})
    assert within("judging", {"judging.aspects"})
    assert not within("judging.aspects", {"judging.kappa_gate", "judg"})
