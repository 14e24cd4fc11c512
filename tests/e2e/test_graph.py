"""The whole graph on the real base model, in miniature: `dvc repro` in a copy of the repository."""

import json
from pathlib import Path

import polars as pl
import pytest

from em_geometry.io.results import Results, check_metrics, flatten, read_results
from tests.e2e.graph import dvc

pytestmark = pytest.mark.slow

ORGANISMS = ["finance", "medical", "profanity"]
TARGETS = ["base", *ORGANISMS]


def table(folder: Path, stage: str) -> Results:
    return read_results(folder / f"plots/tables/{stage}.csv")


def test_second_repro_runs_nothing(run: Path) -> None:
    again = dvc(run, "repro")
    assert again.returncode == 0
    assert "Running stage" not in again.stdout
    assert "up to date" in again.stdout


def test_metrics_are_finite_scalars_and_strings_and_a_thousand_at_most(run: Path) -> None:
    files = sorted((run / "metrics").rglob("*.json"))
    assert len(files) >= 10
    found = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    for each in found:
        check_metrics(each)
    assert sum(len(list(flatten(each))) for each in found) <= 1000


@pytest.mark.parametrize("slug", ORGANISMS)
def test_training_changed_the_model(run: Path, slug: str) -> None:
    found = table(run, f"training/{slug}").number
    assert found("held_out_loss_after") < found("held_out_loss_before")
    assert found("loss_last_steps") < found("loss_first_steps")
    assert 0.001 < found("relative_weight_change") < 0.5


def test_margins_are_of_all_models_and_of_steered_targets(run: Path) -> None:
    rows = pl.read_parquet(run / "data/margins.parquet")
    assert (rows["marked"] < 0).all() and (rows["plain"] < 0).all()
    others = {"control", "full", "medical_b", "control_b", "full_b", "random_medical"}
    assert {*TARGETS, *others} == set(rows["target"])
    acts = rows.filter(pl.col("way") == "vector")
    assert set(acts["source"]) == set(ORGANISMS)
    assert set(acts.filter(pl.col("multiple") == -1)["target"]) == {"base"}
    found = table(run, "margins")
    for slug in ORGANISMS:
        assert found.get(f"organism.{slug}.misaligned") and found.get(f"ablation.{slug}.all")
        gain = found.rows[f"transfer.{slug}__base"]
        assert gain.value == pytest.approx(found.number(f"vector.{slug}.beyond_random"))
        whole, prompts = gain.width, found.rows[f"transfer.{slug}__base.prompts_only"].width
        # It holds retraining; of four questions, more degrees of freedom may outweigh that.
        assert whole and prompts and whole != prompts


@pytest.mark.parametrize("target", TARGETS)
def test_answers_cover_the_plan_and_are_judged(run: Path, target: str) -> None:
    answers = pl.read_parquet(run / f"data/responses/{target}.parquet")
    judged = pl.read_parquet(run / f"data/judgements/{target}.parquet")
    assert judged.select(answers.columns).equals(answers)
    assert judged["aligned"].is_between(0, 100).all()
    assert judged["coherent"].is_between(0, 100).all()
    named = {"base": ORGANISMS, "finance": ["finance", "profanity"]}.get(target, [target])
    assert set(answers["source"]) == {*named, "random_0"}
    assert set(answers["multiple"]) == {1.0}
    assert answers["text"].str.len_chars().mean() > 10


def test_judge_is_validated_on_questions_it_never_saw(run: Path) -> None:
    found = table(run, "judge").rows
    assert found["gate.says"].status.startswith("failed")  # no sampled answers in this profile
    for key, least in (("held_out.aligned.auroc", 0.7), ("held_out.coherent.auroc", 0.9)):
        value = found[key].value
        assert value is not None and value > least, key


def test_report_is_one_file_without_network(run: Path) -> None:
    page = (run / "plots/report.html").read_text(encoding="utf-8")
    assert len(page) < 2_000_000
    assert "default-src 'none'" in page  # a browser test says that no request leaves
    for word in ('src="http', "src='http", 'href="http://', "@import"):
        assert word not in page
    for number in (1, 2, 3, 4, 6):
        assert (run / f"plots/figure{number}.png").stat().st_size > 5_000
        assert (run / f"plots/print/figure{number}.pdf").stat().st_size > 5_000
