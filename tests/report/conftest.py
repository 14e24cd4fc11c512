"""A folder with invented inputs of the last two stages, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from em_geometry.claims import judge_claims
from em_geometry.report import make_report
from em_geometry.settings.params import Params, load_params
from tests.report.fabricated import write_all

ROOT = Path(__file__).parents[2]
HOSTILE = (
    "<script>document.title='owned'</script></style></blockquote><img src=x onerror=alert(1)>"
    "{{ 7*7 }} \u202eright to left \u0000 \x1b[31m \u05d0\u05d1\u05d2 " + "long" * 3000
)


@pytest.fixture(scope="session")
def params() -> Params:
    return load_params(ROOT / "profiles/smol.yaml")


@pytest.fixture(scope="session")
def made(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Invented inputs with one hostile answer a condition, and the claims judged on them."""
    root = tmp_path_factory.mktemp("made")
    shutil.copytree(ROOT / "data/paper", root / "data/paper")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_all(root, params, hostile=HOSTILE)
        judge_claims.main(params)
    return root


@pytest.fixture(scope="session")
def first_run(made: Path, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after one run of the report stage."""
    root = tmp_path_factory.mktemp("first")
    shutil.copytree(made, root, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        make_report.main(params)
    return root


@pytest.fixture
def inputs(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the invented inputs as the working folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
