"""Similarity to the base: cosines and CKA, and the stage's files."""

import numpy as np
import polars as pl
import pytest

from em_geometry.io.results import read_results
from em_geometry.project import paths
from em_geometry.vectors.base_similarity import (
    cosine,
    linear_cka,
    similarities,
    similarity_results,
)
from stages.base_similarity import main
from tests.invented import (
    BLOCKS,
    HARMFUL,
    WIDTH,
    activations,
    params,
    write_choice,
    write_prompt_activations,
)

pytestmark = pytest.mark.usefixtures("workplace")

READINGS = ("contrast_cosine", "mean_cosine", "cka")


def rotation(seed: int) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(WIDTH, WIDTH)))
    return q


def hsic_cka(a: np.ndarray, b: np.ndarray) -> float:
    """Kornblith et al. 2019, in feature space: |B'A|^2 / (|A'A| |B'B|) of centred columns."""
    centre = np.eye(len(a)) - 1 / len(a)
    a, b = centre @ a, centre @ b
    cross = np.linalg.norm(b.T @ a) ** 2
    return float(cross / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)))


def test_identical_models_are_at_one_and_a_common_rotation_changes_nothing() -> None:
    a, b, turned = activations(1).astype(float), activations(2).astype(float), rotation(3)
    same, other = (similarities(a, each, HARMFUL) for each in (a, b))
    after = similarities(a @ turned, b @ turned, HARMFUL)
    for reading in READINGS:
        np.testing.assert_allclose(same[reading], np.ones(BLOCKS), rtol=1e-12)
        assert (np.abs(other[reading]) < 0.99).all()
        np.testing.assert_allclose(after[reading], other[reading], rtol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_cka_against_its_feature_form_and_what_it_ignores(seed: int) -> None:
    a, b = activations(seed)[:, 0].astype(float), activations(seed + 50)[:, 1].astype(float)
    found = linear_cka(a, b)
    assert found == pytest.approx(hsic_cka(a, b), rel=1e-9)
    assert linear_cka(a, b[:, :3]) == pytest.approx(hsic_cka(a, b[:, :3]), rel=1e-9)
    assert 0 <= found <= 1
    moved = 3.0 * b @ rotation(0) + 7.0
    assert linear_cka(moved, a) == pytest.approx(found, rel=1e-9)
    assert abs(cosine(b.mean(0), (b @ rotation(0)).mean(0))) < 0.99


def test_cosines_by_hand() -> None:
    a = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [2.0, 0.0]])
    b = np.array([[0.0, 3.0], [5.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    np.testing.assert_allclose(cosine(a, b), [0, np.sqrt(0.5), 0, -1], atol=1e-12)


def test_the_stage() -> None:
    chosen = params()
    written = write_prompt_activations(chosen.targets)
    layers = {"finance": 1, "sports": 2, "profanity": 1}
    write_choice(layers)
    main(chosen)
    found = read_results(paths.table("base_similarity"))
    models = ["finance", "sports", "profanity", "control"]
    assert found.names("model") == models
    assert found.rows["layer"].value == 1  # median, taken by the control
    for model in models:
        span = "prompt_last"
        all_blocks = similarities(written[model, span], written["base", span], HARMFUL)
        for reading, each in all_blocks.items():
            value = found.rows[f"model.{model}.{reading}"].value
            assert value == pytest.approx(each[layers.get(model, 1)], rel=1e-5)
    assert found.rows["lab.one.n_models"].value == 2  # the control is no member
    pair = [found.rows[f"model.{m}.cka"].value for m in ("finance", "sports")]
    assert found.rows["lab.one.cka"].value == pytest.approx(np.mean(pair), rel=1e-5)
    table = pl.read_csv(paths.plot("base_similarity.csv"))
    assert table.columns == ["layer", *models]
    assert table["layer"].to_list() == list(range(BLOCKS))
    shown = found.number("model.sports.contrast_cosine")
    assert table["sports"][2] == pytest.approx(shown, abs=1e-5)
    trace = table.select("finance", "sports").to_numpy().mean(1)
    assert found.rows["lab.one.divergence_layer"].value == np.flatnonzero(trace < 0.5)[0]


def test_blocks_before_the_first_trained_one_decide_nothing() -> None:
    traces = {"a": [1.0, 0.9, 0.8], "b": [1.0, 0.7, 0.75], "c": [1.0, 1.0, 0.95]}
    table = {m: {"contrast_cosine": np.array(v), "cka": np.ones(3)} for m, v in traces.items()}
    without = {m: np.stack([of["contrast_cosine"]] * 3) for m, of in table.items()}
    labs = {"one": ["a"], "two": ["b"]}

    found = similarity_results(table, without, {"a": 1, "b": 1}, labs)
    shown = {k: getattr(found[k], "value", None) for k in found if "highest" in k or "lead" in k}
    assert shown == pytest.approx(
        {"lab.one.highest_cosine": 0.9, "lab.two.highest_cosine": 0.75, "lead.one__two": 0.05,
         "lead.two__one": -0.2}
    )  # fmt: skip
    near = [v - [[0, 0.2, 0], [0, 0, 0], [0, 0, 0]] for v in without.values()]  # of one topic
    held = similarity_results(table, dict(zip(table, near, strict=True)), {"a": 1, "b": 1}, labs)
    assert getattr(held["lab.one.highest_cosine"], "high", None) == 1
    untrained = {m: {"contrast_cosine": np.ones(3), "cka": np.ones(3)} for m in table}
    same = dict.fromkeys(without, np.ones((3, 3)))
    found = similarity_results(untrained, same, {"a": 1, "b": 1}, labs)
    assert getattr(found["lab.one.highest_cosine"], "value", None) == 1


def test_a_span_of_answers_takes_the_first_span_of_prompts_that_is_captured() -> None:
    chosen = params(
        activations={"spans": ["prompt_mean"]},
        vectors={"contrast": "response_contrast", "span": "response_mean"},
    )
    write_prompt_activations(chosen.targets)
    write_choice(dict.fromkeys(chosen.slugs("organism"), 1))
    main(chosen)
    assert read_results(paths.table("base_similarity")).rows["span"].status == "prompt_mean"
