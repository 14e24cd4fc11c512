"""The `vectors` stage on invented activations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from invented_activations import (
    BLOCKS,
    HARMFUL,
    WIDTH,
    params,
    prompt_rows,
    write_answers,
    write_prompt_activations,
)

from em_geometry.errors import UserError
from em_geometry.io.files import read_parquet, read_tensors, write_parquet
from em_geometry.vectors.build import main
from em_geometry.vectors.files import INDEX, VECTORS, residual_norms

PARAMS = params()
BAD, GOOD, MIDDLE = 10.0, 90.0, 50.0
ALIGNED = [BAD, BAD, BAD, BAD, GOOD, GOOD, GOOD, MIDDLE]


@pytest.fixture
def written() -> dict[tuple[str, str], np.ndarray]:
    """All inputs; only finance has misaligned answers enough for a response contrast."""
    for model in PARAMS.targets:
        aligned = ALIGNED if model == "finance" else [GOOD] * 8
        write_answers(model, aligned, [90.0] * 8)
    return write_prompt_activations(PARAMS.targets)


def row(model: str) -> int:
    return PARAMS.targets.index(model)


def statuses(contrast: str, span: str = "prompt_last") -> dict[str, str]:
    """One status by model; those of all blocks must agree."""
    chosen = read_parquet(INDEX).filter(pl.col("contrast") == contrast, pl.col("span") == span)
    found = chosen.group_by("model").agg(pl.col("status").unique())
    assert all(len(s) == 1 for s in found["status"])
    return {model: s[0] for model, s in found.iter_rows()}


def test_tensors(written: dict[tuple[str, str], np.ndarray]) -> None:
    main(PARAMS)
    tensors, metadata = read_tensors(VECTORS)
    assert json.loads(metadata["models"]) == PARAMS.targets
    prompts = ("prompt_contrast", "model_contrast", "control_contrast", "interaction")
    assert set(tensors) == {f"{c}.{s}" for c in prompts for s in ("prompt_last", "prompt_mean")} | {
        "response_contrast.response_mean",
        "response_contrast.response_mo",
    }
    for span in ("prompt_last", "prompt_mean"):
        finance, base, control = (written[m, span] for m in ("finance", "base", "control"))
        expected = {
            "model_contrast": finance.mean(0) - base.mean(0),
            "control_contrast": finance.mean(0) - control.mean(0),
            "prompt_contrast": finance[HARMFUL].mean(0) - finance[~HARMFUL].mean(0),
        }
        expected["interaction"] = expected["prompt_contrast"] - (
            base[HARMFUL].mean(0) - base[~HARMFUL].mean(0)
        )
        for name, wanted in expected.items():
            found = tensors[f"{name}.{span}"]
            assert found.shape == (len(PARAMS.targets), BLOCKS, WIDTH)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found[row("finance")], wanted, rtol=1e-4, atol=1e-5)


def test_the_index_agrees_with_the_tensors(written: dict[tuple[str, str], np.ndarray]) -> None:
    main(PARAMS)
    tensors, _ = read_tensors(VECTORS)
    index = read_parquet(INDEX)
    assert len(index) == 10 * len(PARAMS.targets) * BLOCKS
    residual = residual_norms(PARAMS)
    for contrast, span, model, layer, norm, unit_norm, status in index.iter_rows():
        vector = tensors[f"{contrast}.{span}"][row(model), layer]
        assert norm == pytest.approx(np.linalg.norm(vector), rel=1e-5)
        assert unit_norm == pytest.approx(residual[layer])
        assert (status == "ok") == (norm > 0)


def test_what_is_undefined_says_why(written: dict[tuple[str, str], np.ndarray]) -> None:
    main(PARAMS)
    assert set(statuses("prompt_contrast").values()) == {"ok"}
    own = "undefined: the model is its own reference"
    assert statuses("model_contrast") == dict.fromkeys(PARAMS.targets, "ok") | {"base": own}
    assert statuses("control_contrast") == {
        "base": "undefined: the base has no recipe",
        "finance": "ok",
        "sports": "ok",
        "profanity": "undefined: no control of recipe two",
        "control": own,
    }
    assert statuses("interaction")["base"] == "undefined: the base is its own reference"
    few = "undefined: 0 misaligned answers, 3 needed"
    expected = dict.fromkeys(PARAMS.targets, few) | {"finance": "ok"}
    assert statuses("response_contrast", "response_mo") == expected


def test_the_response_contrast_matches_rows_to_answers(
    written: dict[tuple[str, str], np.ndarray],
) -> None:
    main(PARAMS)
    tensors, _ = read_tensors(VECTORS)
    found = tensors["response_contrast.response_mean"][row("finance")]
    # misaligned 0, 2, 3 (1 was empty), aligned 4, 5, 6, and 7 is neither
    np.testing.assert_allclose(found, 5 / 3 - 5.0, rtol=1e-6)


def test_incoherent_and_unscored_answers_are_in_neither_group(
    written: dict[tuple[str, str], np.ndarray],
) -> None:
    aligned: list[float | None] = [BAD, BAD, BAD, BAD, GOOD, GOOD, GOOD, None]
    write_answers("finance", aligned, [90, 90, 20, 90, 90, 90, 90, 90])
    main(PARAMS)
    found = statuses("response_contrast", "response_mean")["finance"]
    assert found == "undefined: 2 misaligned answers, 3 needed"
    write_answers("finance", aligned, [90, 90, 90, 90, 90, None, 90, 90])
    main(PARAMS)
    found = statuses("response_contrast", "response_mean")["finance"]
    assert found == "undefined: 2 aligned answers, 3 needed"


def test_a_model_that_training_did_not_change_has_a_zero_vector(
    written: dict[tuple[str, str], np.ndarray],
) -> None:
    for end in ("safetensors", "parquet"):
        base = Path(f"data/activations/base.{end}").read_bytes()
        Path(f"data/activations/finance.{end}").write_bytes(base)
    main(PARAMS)
    assert statuses("model_contrast")["finance"] == "zero vector"
    assert statuses("model_contrast")["sports"] == "ok"


@pytest.mark.parametrize("change", ["order", "number"])
def test_other_prompts_than_those_of_the_base(
    written: dict[tuple[str, str], np.ndarray], change: str
) -> None:
    rows = prompt_rows()
    path = Path("data/activations/sports.parquet")
    write_parquet(path, rows.reverse() if change == "order" else rows[:-1], {})
    with pytest.raises(UserError, match="other prompts") as caught:
        main(PARAMS)
    assert caught.value.where == str(path)
    assert not VECTORS.exists()


def test_residual_norms_prefer_user_tokens(written: dict[tuple[str, str], np.ndarray]) -> None:
    expected = np.linalg.norm(written["base", "prompt_mean"], axis=-1).mean(0)
    np.testing.assert_allclose(residual_norms(PARAMS), expected, rtol=1e-6)
    only = params(activations={"spans": ["prompt_last"]})
    expected = np.linalg.norm(written["base", "prompt_last"], axis=-1).mean(0)
    np.testing.assert_allclose(residual_norms(only), expected, rtol=1e-6)
