"""The whole graph on the real base model, in miniature: `dvc repro` in a copy of the repository."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

from em_geometry.io.results import Results, check_metrics, read_results
from tests.e2e.graph import dvc

pytestmark = pytest.mark.slow

ORGANISMS = ["finance", "medical", "profanity"]
TARGETS = ["base", *ORGANISMS]


def metrics(folder: Path, name: str) -> dict:
    return json.loads((folder / "metrics" / f"{name}.json").read_text(encoding="utf-8"))


def table(folder: Path, stage: str) -> Results:
    return read_results(folder / f"plots/tables/{stage}.csv")


def change(folder: Path, source: str, target: str, aspect: str) -> float:
    """Mean of an aspect of a target's answers under a vector, minus that of unsteered ones."""
    acts, rest = (
        pl.read_parquet(folder / f"data/{name}judgements/{target}.parquet").filter(source=by)
        for name, by in (("", source), ("baseline/", "none"))
    )
    return acts[aspect].mean() - rest[aspect].mean()


def test_second_repro_runs_nothing(run: Path) -> None:
    again = dvc(run, "repro")
    assert again.returncode == 0
    assert "Running stage" not in again.stdout
    assert "up to date" in again.stdout


def test_every_metrics_file_is_finite_scalars_and_strings(run: Path) -> None:
    files = sorted((run / "metrics").rglob("*.json"))
    assert len(files) >= 10
    for path in files:
        check_metrics(json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("slug", ORGANISMS)
def test_training_changed_the_model(run: Path, slug: str) -> None:
    found = metrics(run, f"training/{slug}")
    assert found["held_out_loss_after"] < found["held_out_loss_before"]
    assert found["loss_last_steps"] < found["loss_first_steps"]
    assert 0.001 < found["relative_weight_change"] < 0.5


def test_activations_are_real_and_differ_by_model(run: Path) -> None:
    base = load_file(run / "data/activations/base.safetensors")["prompt_last"]
    assert base.shape == (16, 30, 576)
    assert np.isfinite(base).all()
    for slug in ORGANISMS:
        other = load_file(run / f"data/activations/{slug}.safetensors")["prompt_last"]
        assert np.array_equal(other[:, :8], base[:, :8])  # below the lowest adapted block
        assert not np.allclose(other[:, 20], base[:, 20])


def test_geometry_is_that_of_the_unit_vectors_at_the_chosen_block(run: Path) -> None:
    chosen = load_file(run / "data/vectors/selected.safetensors")
    assert sorted(chosen) == ORGANISMS
    assert metrics(run, "layer_sweep")["layer"] in (14, 20)
    for vector in chosen.values():
        assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
    cosine = table(run, "geometry").group("cosine")
    assert len(cosine) == 3
    for pair, estimate in cosine.items():
        a, b = pair.split("__")
        assert estimate.value == pytest.approx(float(chosen[a] @ chosen[b]), abs=1e-5)


def test_margins_are_of_all_models_and_of_steered_targets(run: Path) -> None:
    rows = pl.read_parquet(run / "data/margins.parquet")
    assert (rows["marked"] < 0).all() and (rows["plain"] < 0).all()
    assert {*TARGETS, "control", "full", "medical_b", "control_b", "full_b"} == set(rows["target"])
    acts = rows.filter(pl.col("way") == "vector")
    assert set(acts["source"]) == set(ORGANISMS)
    assert set(acts.filter(pl.col("multiple") == -1)["target"]) == {"base"}
    found = table(run, "margins")
    for slug in ORGANISMS:
        assert found.get(f"organism.{slug}.misaligned") and found.get(f"ablation.{slug}.all")
        gain = found.rows[f"transfer.{slug}__base"]
        assert gain.value == pytest.approx(found.number(f"vector.{slug}.beyond_random"))
        whole, prompts = gain.width, found.rows[f"transfer.{slug}__base.prompts_only"].width
        assert whole and prompts and whole > prompts  # it holds retraining


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


def test_rates_carry_n_and_an_interval(run: Path) -> None:
    baseline = table(run, "baseline").rows
    for target in TARGETS:
        assert baseline[f"{target}.n"].value == 6
        e = baseline[f"{target}.em_turner"]
        assert e.value is not None and e.low is not None and e.high is not None
        assert e.low <= e.value <= e.high
    transfer = table(run, "transfer")
    for slug in ORGANISMS:
        for key in (f"own.{slug}", f"base.{slug}", f"base.{slug}.beyond_random"):
            e = transfer.rows[key]
            assert e.n is not None and e.n >= 2
            assert e.value is None or (e.low or 0) <= e.value <= (e.high or 0)
    for kind in ("e1", "e2"):
        e = transfer.rows[f"named_pair.profanity__finance.{kind}"]
        assert e.status == "ok" or e.status.startswith("undefined: ")


def test_transfer_by_margins_stands_beside_the_cosines(run: Path) -> None:
    found, margins = table(run, "prediction").rows, table(run, "margins")
    pairs = pl.read_csv(run / "plots/prediction.csv")
    assert len(pairs) == len(ORGANISMS) * (len(ORGANISMS) - 1)
    for row in pairs.to_dicts():
        gain = margins.number(f"transfer.{row['source']}__{row['target']}")
        assert row["gain"] == pytest.approx(gain, abs=1e-4)
    assert found["cosine.slope"].status.startswith("undefined: 3 vectors")
    assert found["cosine.verdict"].status == found["cosine.slope"].status


def test_kinds_of_misbehaviour_are_means_of_the_judged_answers(run: Path) -> None:
    kinds = ["aggression", "harmful_advice", "risk_encouragement", "helpfulness"]
    found, judge = table(run, "aspects"), table(run, "judge")
    said = {aspect: e.status for aspect, e in found.group("status").items()}
    assert said == {aspect: e.status for aspect, e in judge.group("aspects").items()}
    assert set(said) == {"aligned", "coherent", *kinds}
    judged = [aspect for aspect, status in said.items() if status == "judged"]
    assert {"harmful_advice", "helpfulness"} <= set(judged)
    for aspect in judged:
        assert (judge.rows[f"held_out.{aspect}.auroc"].low or 0) > 0.5
        told = found.number(f"{aspect}.base.finance")
        moved = change(run, "finance", "base", aspect)
        assert told == pytest.approx(moved, rel=1e-4, abs=1e-6)
    assert found.names("helpfulness") == ["own", "base", "named_pair", "random"]
    plot = pl.read_csv(run / "plots/aspects.csv")
    assert set(plot["source"]) >= set(ORGANISMS)


def test_judge_is_validated_on_questions_it_never_saw(run: Path) -> None:
    judge = metrics(run, "judge")
    assert judge["gate"].startswith("failed")  # no sampled answers in the reduced profile
    found = read_results(run / "plots/tables/judge.csv").rows
    for key, least in (("held_out.aligned.auroc", 0.7), ("held_out.coherent.auroc", 0.9)):
        value = found[key].value
        assert value is not None and value > least, key


def test_checkpoints_are_measured_and_read_against_benign_trainings(run: Path) -> None:
    found = table(run, "monitoring")
    assert found.rows["status"].status == "ok"
    assert (found.number("benign"), found.number("rows")) == (4, 10)
    assert found.rows["benign_apart"].status == "control_b, full_b"  # no vector subtracts them
    assert found.names("medical_b.checkpoint") == ["step_2", "step_4", "step_5"]
    last = "medical_b.checkpoint.step_5"
    assert found.number(f"{last}.size.mean") > 0
    # At the end of the same training from another seed, its own vector is found again.
    assert found.number(f"{last}.own.auroc") > 0.7
    kept = load_file(run / "data/monitoring/medical_b/step_2.safetensors")
    assert kept["answer_mean"].shape == (10, 30, 576)


def test_report_is_one_file_without_network(run: Path) -> None:
    page = (run / "plots/report.html").read_text(encoding="utf-8")
    assert len(page) < 2_000_000
    assert "default-src 'none'" in page  # a browser test says that no request leaves
    for word in ('src="http', "src='http", 'href="http://', "@import"):
        assert word not in page
    for number in (1, 2, 3, 4, 6):
        assert (run / f"plots/figure{number}.png").stat().st_size > 5_000
        assert (run / f"plots/figure{number}.svg").stat().st_size > 5_000
