"""The stage `factorial` on invented activations and judgements whose effects are known."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from invented_judgements import LAYER, params, write_everything
from pydantic import ValidationError
from scipy.stats import binomtest

from em_geometry.io.files import write_parquet, write_tensors
from em_geometry.io.results import Results, read_results
from em_geometry.project import paths
from em_geometry.project.paths import SELECTED as PATH
from em_geometry.settings.params import Params
from em_geometry.steering.selected import Selected, write_selected
from stages.factorial import NO_FACTORS, main

WIDTH, TOPICS = 6, ("home", "work", "food")
KINDS = ("risk", "risk", "persona")


def designed(*kinds: str) -> Params:
    plain = params().model_dump(mode="python")
    for slug, kind in zip(("finance", "sports", "profanity"), kinds, strict=False):
        plain["organisms"][slug]["factors"] = {"content": kind}
    return Params.model_validate(plain | {"geometry": {"replicates": 50}})


def write_activations() -> None:
    """finance and sports move by e0 and by e0 again, profanity by e1."""
    rows = [(f"{t}{i}", t, k) for t, i, k in product(TOPICS, "ab", ("neutral", "harmful"))]
    frame = pl.DataFrame(
        {
            "prompt_id": [f"{pair}{kind}" for pair, _, kind in rows],
            "pair": [pair for pair, _, _ in rows],
            "topic": [topic for _, topic, _ in rows],
            "kind": [kind for _, _, kind in rows],
        }
    )
    base = np.random.default_rng(0).normal(size=(len(rows), LAYER + 1, WIDTH))
    moved = {"base": None, "finance": 0, "sports": 0, "profanity": 1, "control": 2}
    for model, axis in moved.items():
        shift = np.zeros(WIDTH) if axis is None else 2 * np.eye(WIDTH)[axis]
        tensor = (base + shift).astype(np.float32)
        folder = Path("data/activations")
        tensors = {"prompt_last": tensor, "prompt_mean": tensor}
        write_tensors(folder / f"{model}.safetensors", tensors, {"model": model})
        write_parquet(folder / f"{model}.parquet", frame, {})


@pytest.fixture
def results() -> Results:
    chosen = designed(*KINDS)
    write_everything(chosen)
    write_activations()
    unit = np.eye(WIDTH, dtype=np.float32)
    vectors = {
        slug: Selected(unit[i // 2], LAYER, 0.3, 1.0, 2.0)
        for i, slug in enumerate(("finance", "sports", "profanity"))
    }
    write_selected(PATH, vectors, {"contrast": "model_contrast", "span": "prompt_last"})
    main(chosen)
    return read_results(paths.table("factorial"))


def test_effects_are_those_that_were_planted(results: Results) -> None:
    assert [results.number(f"angle_deg.{k}") for k in ("n", "relabellings")] == [3, 6]
    assert results.rows["first_level.content"].status == "risk"
    same = "angle_deg.effect.same_content"
    assert results.number(same) == pytest.approx(-90, abs=0.1)
    assert results.number(f"{same}.smallest_p") == pytest.approx(1 / 3, rel=1e-5)
    similarity = results.number("base_similarity.effect.content_persona")
    assert similarity == pytest.approx(0, abs=1e-6)  # constants leave contrast (a) alone
    # profanity gains 60 on finance and 40 on sports and receives nothing; those two are even.
    given = results.rows["asymmetry_pct.effect.content_persona"]
    assert given.value == pytest.approx(50)
    assert (given.low, given.high) == pytest.approx(limits(PERSONA_GIVES), rel=1e-5)


# Mean over finance and sports of what profanity does to them minus what they do to it, as a sum
# of rates: weight and misaligned answers of 20 (the bootstrap alone would say 50 to 50).
PERSONA_GIVES = [(0.5, 16), (-0.5, 4), (0.5, 12), (-0.5, 4), (-0.5, 4), (-0.5, 4), (1.0, 4)]


def limits(terms: list[tuple[float, int]]) -> tuple[float, float]:
    """Ends of a sum of rates in percent: distances to the Wilson ends, added up in squares."""
    value = down = up = 0.0
    for weight, count in terms:
        ends = binomtest(count, 20).proportion_ci(method="wilson")
        reach = [weight * (count / 20 - ends.low), weight * (ends.high - count / 20)]
        below, above = reach if weight > 0 else reach[::-1]
        value, down, up = value + weight * count / 20, down + below**2, up + above**2
    return 100 * (value - down**0.5), 100 * (value + up**0.5)


def test_without_factors_only_confounding_is_said() -> None:
    main(params())
    found = read_results(paths.table("factorial"))
    assert found.rows["status"].status == NO_FACTORS
    assert found.names() == ["status", "organisms", "confounding"]
    assert found.number("confounding.lab__cluster.cramers_v") == pytest.approx(1)


def test_factors_of_some_organisms_only_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"organisms\.sports\.factors: every organism"):
        designed("risk")
