"""`em-geometry check`: everything that is wrong is said in one message, before work begins."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

from em_geometry.cli import app
from em_geometry.judging.client import KEY_VARIABLE
from em_geometry.models import preflight
from tests.conftest import ROOT, changed
from tests.judging.double import KEY, Double

INPUTS = "prompts questions organisms judge paper papers margins external"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The inputs of the small profile, which a test may damage."""
    for name in INPUTS.split():
        shutil.copytree(ROOT / "data" / name, tmp_path / "data" / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    write(changed())
    return tmp_path


def write(params: dict[str, Any]) -> None:
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def check() -> Result:
    return CliRunner().invoke(app, ["check"])


def edit(name: str, change: Callable[[list[Any]], object]) -> None:
    """Changes the rows of a file of JSON lines."""
    rows = [json.loads(line) for line in Path(name).read_text(encoding="utf-8").splitlines()]
    change(rows)
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_sound_inputs_pass_and_dead_links_go(place: Path) -> None:
    for name, target in (("finance", place / "params.yaml"), ("base", place / "removed")):
        (place / "data/linked" / name).mkdir(parents=True)
        (place / "data/linked" / name / "model.safetensors").symlink_to(target)
    result = check()
    assert result.exit_code == 0, result.output
    assert "profile smol" in result.output
    assert [path.name for path in (place / "data/linked").iterdir()] == ["finance"]


def test_everything_that_is_wrong_is_in_one_message(place: Path) -> None:
    params = changed(("sampling", "temprature"), 1)
    params["judging"] |= {"backend": "local", "model": "path:no/such/judge"}
    params["judging"]["aspects"] = ["aligned", "coherent", "wit"]
    params["organisms"]["style"]["source"] = "http://host/x"
    params["questions"]["variants"] = ["poem"]
    params["geometry"]["focus"] = ["risk", "nowhere"]
    write(params)
    Path("data/organisms/finance.jsonl").unlink()
    Path("data/organisms/full.jsonl").write_text("", encoding="utf-8")
    edit("data/organisms/sports.jsonl", lambda rows: rows.append(rows[3]))
    edit("data/organisms/control.jsonl", lambda rows: [r.pop("messages") for r in rows[:8]])
    edit("data/prompts/harmful.jsonl", lambda rows: rows[0].update(pair="elsewhere"))
    edit("data/margins/swearing.jsonl", lambda rows: rows.append(rows[0]))
    Path("data/papers/geometric_structure.yaml").unlink()
    shutil.rmtree("data/external")
    result = check()
    assert result.exit_code == 2
    for says in (
        "did you mean 'temperature'?", "params.yaml: geometry.focus",
        "data/organisms/finance.jsonl", "where:    data/organisms/full.jsonl",
        "data/organisms/sports.jsonl, rows 4 and 121", "data/organisms/control.jsonl, line 1:",
        "data/organisms/control.jsonl, line 5:", "(and in 3 more rows)", "a pair of prompts is not",
        "a pair's id occurs twice", "data/papers/geometric_structure.yaml", "data/external",
        "questions.variants", "data/judge/labelled.jsonl, line 1", "wit.txt",
        "params.yaml: judging.model", "params.yaml: organisms.style.source",
    ):  # fmt: skip
        assert says in result.output, says
    assert "line 6" not in result.output


def test_what_must_agree_with_the_data(place: Path) -> None:
    params = changed(("activations", "texts"), 65)
    params["organisms"] |= {"alone": params["organisms"]["finance"] | {"lab": "lone"}}
    params["recipes"]["lone"] = params["recipes"]["hunter"]
    write(params)
    result = check()
    assert "64 of 120" in result.output and "65 (activations.texts)" in result.output
    assert "organisms.alone.lab" in result.output and result.output.count("error:") == 2


def test_an_adapter_of_another_base_is_named_before_anything_runs(place: Path) -> None:
    folder = Path("brought")
    folder.mkdir()
    save_file({"x": np.ones(2, np.float32)}, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "base_model_name_or_path": "someone/other",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    params = changed(("organisms", "finance", "source"), "path:brought")
    write(params)
    assert "base.also_known_as: [someone/other]" in check().output
    params["base"]["also_known_as"] = ["someone/other"]
    write(params)
    assert "another base model" not in check().output


def test_a_training_is_long_enough_for_its_checkpoints(place: Path) -> None:
    write(changed(("organisms", "finance", "max_examples"), 4))
    result = check()
    assert (result.exit_code, result.output.count("error:")) == (2, 1), result.output
    assert (
        "organism finance" in result.output and "3 answers to learn make 2 steps" in result.output
    )


@pytest.mark.parametrize(("key", "value"), [("variants", []), ("prompt", " ")])
def test_questions_that_nobody_is_asked(place: Path, key: str, value: Any) -> None:
    path = Path("data/questions/evaluation.yaml")
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    data["questions"] = [question | {key: value} for question in data["questions"]]
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    result = check()
    assert (result.exit_code, result.output.count("error:")) == (2, 1), result.output
    assert str(path) in result.output


def test_disk_and_memory(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    assert "1.0 GB free" in check().output
    run = SimpleNamespace(device="cpu")
    assert preflight.crowded(10**9, run, 2 * 10**9) == ""  # type: ignore[arg-type]
    assert "does not fit" in preflight.crowded(10**9, run, 10**9)  # type: ignore[arg-type]


def test_an_endpoint_is_asked_once_where_there_is_a_key(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = changed()
    params["judging"] |= {"backend": "openai", "model": "m", "base_url": "https://host.invalid/v1"}
    write(params)
    result = check()
    assert result.exit_code == 0 and f"variable {KEY_VARIABLE} is not set" in result.output
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    for settings, status, says in (
        ({}, 0, "profile smol"), ({"key": "another"}, 2, "does not accept the key"),
        ({"always": 404}, 2, "does not exist"),
    ):  # fmt: skip
        with Double(**settings) as double:
            params["judging"]["base_url"] = double.url
            write(params)
            result = check()
        assert (result.exit_code, says in result.output) == (status, True), result.output
        assert sum(double.attempts.values()) <= 1 and KEY not in result.output


@pytest.mark.parametrize("given", ["adapters", "chats"])
def test_a_new_study_lacks_its_models_and_chats_alone(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the sections, papers and pairs of stages that it has not."""
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["new", "study", "--from", given]).exit_code == 0
    monkeypatch.chdir(tmp_path / "study")
    result = check()
    assert result.exit_code == 2
    faults = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert {*faults} <= {
        "error: the folder of this model is not there",
        "error: too few chats that no model is trained on",
    }
    for command in ("plan", "status"):
        assert CliRunner().invoke(app, [command]).exit_code == 0
    Path("params.yaml").write_text(
        Path("params.yaml").read_text(encoding="utf-8").replace("activations:", "activation:")
    )
    assert "left out" in check().output


def test_a_study_of_vectors_is_told_that_it_has_other_params(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["new", "study", "--from", "vectors"]).exit_code == 0
    monkeypatch.chdir(tmp_path / "study")
    assert "not the params of an analysis of models" in check().output
