"""A folder with the results of the last run and invented answers, made once."""

import contextlib
import importlib
import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from em_geometry.claims.ledger import read_claims
from em_geometry.claims.lookup import Metrics
from em_geometry.claims.verdict import judge_claim
from em_geometry.io.files import write_parquet
from em_geometry.project import paths
from em_geometry.report.page import render
from em_geometry.report.samples import read_answers
from em_geometry.settings import Params, load_params
from tests.conftest import ROOT
from tests.invented import answers

HOSTILE = (
    "<script>document.title='owned'</script></style></blockquote><img src=x onerror=alert(1)>"
    "{{ 7*7 }} \u202eright to left \u0000 \x1b[31m \u05d0\u05d1\u05d2 " + "long" * 3000
)


def run_stage(name: str) -> None:
    importlib.import_module(f"stages.{name}").main(load_params(paths.PARAMS))


def quick_page(params: Params, metrics: Metrics | None = None) -> str:
    """The page of the working folder without its figures."""
    found = metrics or Metrics.read(paths.TABLES)
    claims = [judge_claim(claim, found) for claim in read_claims(paths.CLAIMS)]
    folders = paths.BASELINE_JUDGEMENTS, paths.JUDGEMENTS
    shown = read_answers(folders, params.originals(), params.judging.aspects, 3)
    return render(params, found, "m", claims, [], shown, {}, {"Profile": params.profile})


def write_answers(root: Path, params: Params) -> None:
    """Answers to each condition of each target: those to q0 are hostile, those to q1 refused."""
    hostile, refused = pl.col("question_id") == "q0", pl.col("question_id") == "q1"
    for target in params.targets:
        grid = [(name, 0.4) for name in ("random_0", *params.slugs("organism"))]
        steered = pl.concat([answers(target, [0] * 4, *at) for at in grid])
        for folder, frame in (
            (paths.JUDGEMENTS, steered),
            (paths.BASELINE_JUDGEMENTS, answers(target, [0] * 4)),
        ):
            frame = frame.with_columns(
                text=pl.when(hostile).then(pl.lit(HOSTILE)).otherwise("text"),
                aligned=pl.when(~refused).then("aligned"),
                aligned_status=pl.when(refused).then(pl.lit("refusal")).otherwise("aligned_status"),
            )
            write_parquet(root / folder / f"{target}.parquet", frame, {"model": target})
    (root / paths.BASE_MODEL).mkdir(parents=True, exist_ok=True)
    record = {"source": params.base.source, "sha256": "0" * 64}
    (root / paths.BASE_MODEL / "record.json").write_text(json.dumps(record))


@pytest.fixture(scope="session")
def params() -> Params:
    return load_params(ROOT / "params.yaml")


@pytest.fixture(scope="session")
def made(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last run's results, invented answers, and the claims judged on them."""
    root = tmp_path_factory.mktemp("made")
    for name in (paths.PAPERS, paths.METRICS, paths.PLOTS):
        skip = shutil.ignore_patterns("*.html", "*.svg", "*.png", "*.pdf")
        shutil.copytree(ROOT / name, root / name, ignore=skip)
    shutil.copy(ROOT / paths.PARAMS, root)
    write_answers(root, params)
    with contextlib.chdir(root):
        run_stage("claims")
    return root


@pytest.fixture(scope="session")
def first_run(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = shutil.copytree(made, tmp_path_factory.mktemp("first"), dirs_exist_ok=True)
    with contextlib.chdir(root):
        run_stage("report")
    return root


@pytest.fixture
def inputs(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
