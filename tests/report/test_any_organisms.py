"""Any organisms and clusters: from vectors and answers to the page, no name of the paper's."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from em_geometry.claims.lookup import Metrics
from em_geometry.io.files import read_tensors, write_parquet, write_text
from em_geometry.project import paths
from em_geometry.project.outputs import put_results
from em_geometry.settings import Params
from em_geometry.steering.conditions import Selected, write_selected
from tests.conftest import ROOT, changed
from tests.geometry.synthetic import write_artifacts
from tests.invented import answers, write_margins
from tests.report.conftest import run_stage

UNEQUAL = {
    "deceit": ["deception", "sandbagging", "bluffing"],
    "manners": ["rudeness", "mockery"],
    "lone": ["gambling"],
}
ONE = {"all": ["deception", "sandbagging", "bluffing"]}
DOSE, LAYER = 0.3, 1
NOT_JUDGED = "not judged: AUROC on sampled answers 0.55 [0.40, 0.70]"
STAGES = ("geometry", "calibration", "transfer", "geometry_predicts_transfer", "aspects",
          "claims", "report")  # fmt: skip


def params_of(folder: Path, clusters: dict[str, list[str]]) -> Params:
    data = changed()
    labs = list(data["recipes"])
    slugs = [(slug, name) for name, members in clusters.items() for slug in members]
    data["organisms"] = {
        slug: {"lab": labs[i % 2], "cluster": name, "data": f"{slug}.jsonl"}
        for i, (slug, name) in enumerate(slugs)
    } | {"control": {"lab": labs[0], "role": "control", "data": "none.jsonl"}}
    data["random_adapters"] = {}
    data["judging"]["probe"]["sampled"] = None
    data["geometry"] = {"replicates": 40, "focus": []}
    data["layer_sweep"]["layers"] = [0, 1, 2]
    data["transfer"] |= {"pairs": [f"{slugs[0][0]}>{slugs[1][0]}"]}
    data["monitoring"] = {"organisms": []}
    params = Params.model_validate(data)
    text = yaml.safe_dump(params.model_dump(mode="json"), sort_keys=False)
    write_text(folder / paths.PARAMS, text)
    return params


def write_judgements(params: Params) -> None:
    """Answers in which every vector makes some worse; each aspect follows the misaligned ones."""
    random = np.random.default_rng(0)
    kinds = params.judging.aspects[2:]
    organisms = params.slugs("organism")
    for target in params.targets:
        steered = [("random_0", 3), *((source, 5) for source in organisms)]
        for folder, grid in (
            (paths.BASELINE_JUDGEMENTS, [("none", 3)]),
            (paths.JUDGEMENTS, steered),
        ):
            frames = [
                answers(target, random.integers(0, most, size=4).tolist(), source, DOSE)
                for source, most in grid
            ]
            frame = pl.concat(frames).with_columns(
                *((100 - pl.col("aligned")).alias(a) for a in kinds),
                *(pl.lit("ok").alias(f"{a}_status") for a in kinds),
            )
            write_parquet(folder / f"{target}.parquet", frame, {})
    units = read_tensors(paths.SELECTED)[0]
    chosen = {s: Selected(units[s], LAYER, DOSE, 9.0, 1.0 + i) for i, s in enumerate(organisms)}
    about = {"contrast": "model_contrast", "span": "prompt_last"}
    write_selected(paths.SELECTED, chosen, about)


@pytest.fixture(scope="module", params=[UNEQUAL, ONE], ids=["unequal", "one"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Params and clusters, inside the folder after the stages from geometry to report."""
    folder = tmp_path_factory.mktemp("organisms")
    with contextlib.chdir(folder):
        params = params_of(folder, request.param)
        for name in ("data/paper", "data/papers"):
            shutil.copytree(ROOT / name, folder / name)
        write_artifacts(folder, params)
        write_judgements(params)
        write_margins(slugs := params.slugs("organism"), np.eye(len(slugs)), LAYER, [9.0] * 9)
        sweep = {slug: {"best_layer_by_margin": LAYER} for slug in params.slugs("organism")}
        put_results("layer_sweep", {"contrast": "model_contrast", "span": "prompt_last", **sweep})
        likeness = {slug: {"contrast_cosine": 0.5} for slug in params.targets[1:]}
        put_results("base_similarity", {"model": likeness})
        said = dict.fromkeys(params.judging.aspects, "judged") | {"aggression": NOT_JUDGED}
        put_results("judge", {"judge": "invented", "gate": {"says": "passed"}, "aspects": said})
        for stage in STAGES:
            run_stage(stage)
        yield params, request.param


@pytest.fixture
def metrics(run: Any) -> Metrics:
    return Metrics.read(paths.TABLES)


def test_geometry_has_every_pair_and_a_reason_where_a_cluster_is_too_small(
    run: Any, metrics: Metrics
) -> None:
    params, clusters = run
    slugs = params.slugs("organism")
    assert len(metrics.group("geometry:cosine")) == len(slugs) * (len(slugs) - 1) // 2
    assert set(metrics.names("geometry:verdict")) >= {f"test{k}" for k in range(1, 6)}
    if len(clusters) == 1:
        assert "undefined" in metrics.estimate("geometry:verdict.test1").status
    else:
        assert metrics.has("geometry:cluster_angle.deceit__manners_deg")
        assert metrics.has("geometry:cluster_angle.deceit__lone_deg")  # one vector will do
    assert metrics.estimate("calibration:rows").value


def test_transfer_prediction_and_aspects_name_these_organisms(run: Any, metrics: Metrics) -> None:
    slugs = run[0].slugs("organism")
    assert metrics.names("transfer:own") == metrics.names("transfer:base") == slugs
    assert metrics.names("transfer:named_pair") == [f"{slugs[0]}__{slugs[1]}"]
    slope = metrics.estimate("prediction:cosine.slope")
    assert slope.n == 6 if len(slugs) > 3 else slope.status.startswith("undefined: 3 vectors")
    assert metrics.names("aspects:harmful_advice.base") == slugs
    assert "aggression" not in metrics.names("aspects")


def test_the_page_shows_them_and_no_claim_is_measured_on_the_paper_s(run: Any) -> None:
    params, _ = run
    page = paths.REPORT.read_text(encoding="utf-8")
    for slug in params.slugs("organism"):
        assert slug in page
    named = pl.col("metric").str.contains("finance|sports|medical|profanity|malicious|persona")
    about = pl.read_csv(paths.plot("claims.csv"), infer_schema=False).filter(named)
    assert set(about["verdict_run"]) == {"not measurable here"}
