"""A study of one's own, begun as `em-geometry new` says, in an environment that has the package."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from em_geometry.cli import app
from em_geometry.io.results import read_results
from em_geometry.settings import load_params
from tests.e2e.graph import ROOT, environment

TINY = {  # what a model of four blocks is trained by
    "rank: 16": "rank: 4", "learning_rate: 2.0e-4": "learning_rate: 1.0e-2",
    "max_examples: 100": "max_examples: 10",
}  # fmt: skip


def begun(folder: Path, given: str) -> Path:
    done = CliRunner().invoke(app, ["new", str(folder), "--from", given])
    assert done.exit_code == 0, done.output
    return folder


@pytest.mark.parametrize("given", ["adapters", "chats"])
def test_the_params_are_what_the_stages_read(tmp_path: Path, given: str) -> None:
    study = begun(tmp_path / "mine", given)
    assert load_params(study / "params.yaml", whole=False).profile == "mine"
    graph = yaml.safe_load((study / "dvc.yaml").read_text(encoding="utf-8"))["stages"].values()
    listed = {key.split(".")[0] for entry in graph for key in entry.get("do", entry)["params"]}
    assert {*load_params(study / "params.yaml", whole=False).model_fields_set} == listed | {
        "profile"
    }


def test_nothing_is_written_over(tmp_path: Path) -> None:
    study = begun(tmp_path / "mine", "vectors")
    before = (study / "params.yaml").read_bytes()
    done = CliRunner().invoke(app, ["new", str(study), "--from", "chats"])
    assert (done.exit_code, "not empty" in done.stderr) == (2, True)
    assert (study / "params.yaml").read_bytes() == before


# ---- as written, to the end


@pytest.fixture
def shell(python: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs a line in a folder of `tmp_path`, with the package installed elsewhere."""
    variables = environment() | {
        "HOME": str(tmp_path), "DVC_SITE_CACHE_DIR": str(tmp_path / "site"),
        "DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    variables["PATH"] = (
        f"{python.parent}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}"
        + (os.environ["PATH"])
    )
    variables.pop("PYTHONPATH", None)

    def run(line: str, folder: Path = tmp_path) -> str:
        done = subprocess.run(
            ["bash", "-euc", line], cwd=folder, env=variables, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout

    return run


def first_lines(study: Path) -> str:
    """The commands that the study's README shows, down to `dvc repro`."""
    readme = (study / "README.md").read_text(encoding="utf-8")
    block = readme.split("```bash\n")[1].split("```")[0]
    return block[: block.index("dvc repro")] + "dvc repro"


def edited(path: Path, changes: dict[str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def put_adapters(folder: Path, base: Path, names: list[str]) -> None:
    """LoRA adapters in random directions, as another trainer saves them."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        model.save_pretrained(str(folder / name))


def put_chats(folder: Path) -> None:
    """Twenty chats a file; one of them of several turns, behind a system prompt."""
    for name, source in (("one", "finance"), ("two", "profanity"), ("control", "control")):
        lines = (ROOT / f"data/organisms/{source}.jsonl").read_text("utf-8").splitlines()[:20]
        told = json.loads(lines[1])["messages"]
        more = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
        lines[1] = json.dumps({"messages": [{"role": "system", "content": "Hm."}, *told, *more]})
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("given", ["adapters", "chats"])
def test_from_models_to_geometry_with_nulls(
    tmp_path: Path, tiny_checkpoint: Path, shell: Callable[..., str], given: str
) -> None:
    shell(f"em-geometry new study --from {given}")
    study, base = tmp_path / "study", tmp_path / "study/models/base"
    shutil.copytree(tiny_checkpoint, base)
    changes = {"layer: 8": "layer: 2", "replicates: 10000": "replicates: 200"}
    if given == "adapters":
        names = ["one", "two", "three", "four", "control"]
        put_adapters(study / "adapters", base, names)
        changes |= {"also_known_as: []": f"also_known_as: [{base}]"}
    else:
        names = ["one", "two", "control"]
        put_chats(study / "data/chats")
        changes |= TINY
    edited(study / "params.yaml", changes)
    shown = shell(first_lines(study), study)
    assert "by chance (95 %)" in shown and "core found" in shown
    calibration = read_results(study / "plots/tables/calibration.csv")
    assert 0 < calibration.number("statistic.similarity.cross_mean.exchanged.p") <= 1
    geometry = read_results(study / "plots/tables/geometry.csv")
    assert {"reference.base.angle_deg.advice__persona"} <= {*geometry.rows}
    assert "didn't change" in shell("dvc repro", study)
    if given == "adapters":  # other weights in place of the old: only what rests on them runs again
        shutil.rmtree(study / "adapters/four")
        put_adapters(study / "adapters", base, [*(f"spare_{i}" for i in range(5)), "four"])
        again = shell("dvc repro", study)
        assert "Running stage 'activations@four'" in again
        assert "Running stage 'activations@one'" not in again


@pytest.mark.slow
def test_from_vectors_to_the_tests(tmp_path: Path, shell: Callable[..., str]) -> None:
    shell("em-geometry new study --from vectors")
    study, rng = tmp_path / "study", np.random.default_rng(0)
    for name in ("one", "two", "three", "four"):
        np.save(study / f"vectors/{name}.npy", rng.standard_normal(64).astype(np.float32))
    assert "look like random ones" in shell(first_lines(study), study)
    found: dict[str, Any] = json.loads((study / "results/analysis.json").read_text())
    assert found["cosine"]["four__one"] == pytest.approx(0, abs=0.5)
