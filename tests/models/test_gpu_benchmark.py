"""The benchmark for any GPU in miniature on a CPU, with no package but those that it names."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from tests.conftest import ROOT

# What a project has and a borrowed machine may not.
ABSENT = ("altair", "dvc", "gguf", "matplotlib", "openai", "pandas", "polars", "pyarrow", "ray",
          "scipy", "sklearn", "typer")  # fmt: skip
RUN = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({ABSENT}))
sys.argv = ["gpu", "--miniature", "--out", sys.argv[1]]
runpy.run_module("benchmarks.gpu", run_name="__main__")
"""
FIGURES = {"capture", "bare forward", "margins", "answers", "plain generate", "local judge",
           "training"}  # fmt: skip


def test_the_miniature_measures_every_step_and_says_what_the_profiles_take(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", RUN, str(tmp_path / "gpu.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert list(found["models"]) == list(gpu.SHAPES)
    for model in found["models"].values():
        assert set(model["figures"]) == FIGURES
        for figure in model["figures"].values():
            assert figure["tokens_s"] > 0 and figure["share"] > 0 and figure["batch"] >= 1
        cost = model["profile_cost"]
        assert cost["hours"] == pytest.approx(sum(cost["hours_by_step"].values()))
        assert cost["machine_usd"] == pytest.approx(2.5 * cost["hours"])
        assert cost["judge_usd_at_most"] > 0 and cost["hours_of_a_local_judge"] > 0
        assert math.isfinite(model["steered_vs_one_condition_at_a_time"])
        assert f"profile {model['profile']}: {cost['hours']:.1f} hours at most" in done.stdout


@pytest.mark.parametrize(
    ("name", "weights"), [("Llama-3.1-8B", 8_030_261_248), ("Qwen2.5-7B", 7_615_616_512)]
)
def test_the_shapes_have_as_many_weights_as_the_models(name: str, weights: int) -> None:
    model = gpu.SHAPES[name].build(torch.bfloat16, "meta")
    assert sum(p.numel() for p in model.parameters()) == weights


def test_a_step_that_is_left_out_leaves_the_hours_unknown() -> None:
    figure = {"tokens_s": 1000.0}
    figures = dict.fromkeys(FIGURES, figure) | {"margins": "left out: more memory is needed"}
    params = gpu.load_params(ROOT / "profiles/qwen25_7b.yaml")
    cost = gpu.extrapolated(params, figures, 2.5)
    assert cost["hours"] is None and cost["machine_usd"] is None
    assert gpu.ratio(figures, "margins", "capture") is None
    assert gpu.ratio(figures, "answers", "capture") == 1.0
