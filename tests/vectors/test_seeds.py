"""Further seeds of the same organisms, trained on the tiny model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from em_geometry.activations.capture import capture
from em_geometry.activations.prompts import prompt_texts, read_prompts
from em_geometry.errors import UserError
from em_geometry.io.results import read_results
from em_geometry.models import train
from em_geometry.project import paths
from em_geometry.project.inputs import models
from em_geometry.settings import Params
from em_geometry.vectors import seeds
from stages import seeds as stage
from tests.tiny_run import LAYER, NAMES, activations, finished


@pytest.fixture
def params(workplace: Path, tiny_checkpoint: Path, smol: dict[str, Any]) -> Params:
    smol["seeds"]["count"] = 2
    return finished(tiny_checkpoint, smol, NAMES, prompts=4)


def vector(params: Params, slug: str, seed: int) -> np.ndarray:
    """A vector made step by step, from training to the difference of means."""
    known, spans = models(params), params.activations.spans
    model, _ = train.fine_tune(known, slug, params.recipes[params.organisms[slug].lab], seed)
    prompts = read_prompts(params.prompts)
    texts, _ = prompt_texts(prompts, spans, known.tokenizer(), known.system_prompt)
    means, _ = capture(model.merge_and_unload().eval(), texts)
    own = means[:, spans.index("prompt_last")].numpy()
    return np.asarray((own - activations("base")).mean(0)[LAYER])


def test_seeds_are_trained_compared_and_kept(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.main(params)
    results = read_results(paths.table("seeds"))
    angle = {k: e.value for k, e in results.group("angle_deg.medical__profanity").items()}
    assert (angle["n"], angle["guess_low"], angle["guess_high"]) == (4, 85.0, 115.0)
    assert angle["lowest"] < angle["mean"] < angle["highest"]
    assert 0 < angle["sd"] < angle["highest"] - angle["lowest"]
    assert 0 <= angle["inside_guess"] <= 4
    first, second = (vector(params, "medical", seed) for seed in (0, 1))
    saved = (activations("medical") - activations("base")).mean(0)[LAYER]
    assert first == pytest.approx(saved, abs=1e-5)  # the run's own seed is one of the seeds
    again = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert again < 0.9999  # another seed is another model
    replication = results.group("replication")
    assert replication["medical.across_seeds.mean"].value == pytest.approx(again, abs=1e-5)
    assert replication["medical.across_seeds.sd"].status == "undefined: one value"
    assert "undefined" in replication["profanity.across_recipes"].status
    assert results.number("battery.cluster_angle.medical__persona_deg.n") == 4
    assert results.rows["survives.verdict_test1.seeds"].n == 4
    recipes = results.group("replication.medical.across_recipes.medical_replication")
    half = (recipes["highest"].value - recipes["lowest"].value) / 2**0.5
    assert recipes["sd"].value == pytest.approx(half, rel=1e-3, abs=1e-6)
    assert results.rows["profile"].status == "smol"
    monkeypatch.setattr(seeds, "fine_tune", None)
    stage.main(params)  # nothing is trained twice
    assert read_results(paths.table("seeds")) == results


@pytest.mark.parametrize("chosen", [[], ["medical"], ["medical", "style"]])
def test_seeds_need_two_organisms_of_the_run(smol: dict[str, Any], chosen: list[str]) -> None:
    params = Params.model_validate(smol)
    trained = {m: o for m, o in params.organisms.items() if m in ("full", *NAMES)}
    other = params.seeds.model_copy(update={"organisms": chosen})
    with pytest.raises(UserError, match="two or more organisms"):
        stage.main(params.model_copy(update={"seeds": other, "organisms": trained}))
