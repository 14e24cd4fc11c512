"""What the code may not do, read from its syntax: run data as code, or a shell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(
    p for folder in ("em_geometry", "stages", "benchmarks") for p in (ROOT / folder).rglob("*.py")
)
# torch.load, there with weights_only=True, and torch.save: lm-eval's steering files.
PT_FILES = {"em_geometry/steering/formats.py"}
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {
    "os.system", "os.popen", "eval", "exec", "yaml.load", "yaml.load_all", "yaml.full_load",
    "yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "torch.jit.load",
    "torch.hub.load", "subprocess.getoutput", "subprocess.getstatusoutput",
}  # fmt: skip
SWITCHES = {"trust_remote_code", "allow_pickle", "shell"}  # may be given as False only


def offences(source: str, name: str) -> Iterator[str]:
    """Every forbidden import, call and switch of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            called = {f"{node.module}.{a.name}" for a in node.names}
            yield from called & (CALLS | {"torch.load", "torch.save"})
            yield from MODULES & {str(node.module).split(".")[0]}
        elif isinstance(node, ast.Call):
            called, given = ast.unparse(node.func), {k.arg: k.value for k in node.keywords}
            if called in CALLS:
                yield called
            if called in ("torch.load", "torch.save") and name not in PT_FILES:
                yield called
            if called == "torch.load" and not _is(given.get("weights_only"), True):
                yield "torch.load without weights_only=True"
            yield from (str(k) for k, v in given.items() if k in SWITCHES and not _is(v, False))
        elif isinstance(node, ast.Dict):  # keyword arguments that are passed on
            pairs = zip(node.keys, node.values, strict=True)
            yield from (k.value for k, v in pairs if _switch(k) and not _is(v, False))


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _switch(key: ast.expr | None) -> bool:
    return isinstance(key, ast.Constant) and key.value in SWITCHES


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_pickle_no_shell_no_foreign_code(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    assert list(offences(path.read_text(encoding="utf-8"), name)) == []


def test_the_list_of_pt_files_is_not_longer_than_needed() -> None:
    for name in PT_FILES:
        assert "torch.load(" in (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "torch.load(p, weights_only=flag)",
        "from torch import load",
        "np.load(p, allow_pickle=True)",
        "f(trust_remote_code=True)",
        "f(trust_remote_code=yes)",
        "f(**{'trust_remote_code': True})",
        "yaml.load(t, Loader=yaml.Loader)",
        "from yaml import unsafe_load",
        "subprocess.run(c, shell=True)",
        "os.system(c)",
        "eval(c)",
    ],
)
def test_offences_are_seen(code: str) -> None:
    assert list(offences(code, "stages/x.py"))
    assert list(offences(f"def f():\n    if x:\n        {code}", "stages/x.py"))


def test_what_is_allowed_is_no_offence() -> None:
    code = "torch.load(p, weights_only=True)\nyaml.safe_load(t)\nmodel.eval()\nrun(['git'])"
    assert list(offences(code, "em_geometry/steering/formats.py")) == []
    assert list(offences(code, "stages/x.py")) == ["torch.load"]
