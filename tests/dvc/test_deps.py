"""Code changes rerun the stages that use the code and no others: dvc.yaml against the imports."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from stages.common.deps import listed, main, used
from stages.common.params import Params

ROOT = Path(__file__).parents[2]
GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
STAGES = {name: stage.get("do", stage) for name, stage in GRAPH.items()}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_the_code_that_it_runs_and_no_other(stage: str) -> None:
    runs, lists = used(STAGES[stage]), listed(STAGES[stage])
    assert runs, f"{stage} runs no module of this project"
    assert runs == lists, (
        f"{stage}: missing {sorted(runs - lists)}, idle {sorted(lists - runs)}; run `make deps`"
    )


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_what_lies_beside_its_code(stage: str) -> None:
    """Templates and the like, which no import names."""
    beside = {
        file
        for folder in {Path(name).parent for name in used(STAGES[stage])}
        for file in folder.rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc")
    }
    deps = [Path(str(dep)) for dep in STAGES[stage]["deps"]]
    assert all(any(file.is_relative_to(dep) for dep in deps) for file in beside), beside


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_sections_of_params_that_exist(stage: str) -> None:
    for key in STAGES[stage].get("params", []):
        section = str(key).split(".")[0]
        assert section in Params.model_fields, f"{stage} lists no section of params: {section}"


def test_imports_are_followed_into_functions_but_not_into_hints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "stages/x"
    folder.mkdir(parents=True)
    for name, text in {
        "a": "from stages.x import b\nif TYPE_CHECKING:\n    from stages.x import d\n",
        "b": "def f():\n    from stages.x.c import g\n    import stages.common.errors\n",
        "c": "import os\n",
        "d": "",
    }.items():
        (folder / f"{name}.py").write_text(text)
    graph = tmp_path / "dvc.yaml"
    graph.write_text(
        "# head\nstages:\n  s:\n    cmd: python -m stages.x.a\n    deps: [stages/x, data/y]\n"
    )
    main(graph)
    written = graph.read_text()
    assert written.startswith("# head")
    deps = yaml.safe_load(written)["stages"]["s"]["deps"]
    assert deps == ["stages/x/a.py", "stages/x/b.py", "stages/x/c.py", "data/y"]
    main(graph)
    assert graph.read_text() == written


@pytest.mark.parametrize(
    "profile",
    [*sorted(ROOT.glob("profiles/*.yaml")), ROOT / "tests/e2e/reduced.yaml"],
    ids=lambda path: path.stem,
)
def test_every_profile_has_the_params_that_stages_name(profile: Path) -> None:
    """DVC stops at a stage whose param is missing, also where the code has a default for it."""
    params = yaml.safe_load(profile.read_text(encoding="utf-8"))
    named = {key for stage in STAGES.values() for key in stage.get("params", [])}
    assert len(named) > 20
    for key in (k for k in named if "$" not in k):
        section = params
        for part in key.split("."):
            assert part in section, key
            section = section[part]
