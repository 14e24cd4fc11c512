"""Contrasts by hand and what they must not depend on, and the stage on invented activations."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from em_geometry.errors import UserError
from em_geometry.io.files import read_parquet, write_parquet
from em_geometry.project import paths
from em_geometry.settings import TEXTS, Vectors
from em_geometry.vectors import contrasts
from em_geometry.vectors.evidence import file_rows
from stages.vectors import main
from tests import invented

pytestmark = pytest.mark.usefixtures("workplace")

# three prompts or answers, one block, width two
MODEL = np.array([[[1.0, 0.0]], [[3.0, 2.0]], [[5.0, 10.0]]])
OTHER = np.array([[[0.0, 0.0]], [[1.0, 1.0]], [[5.0, 4.0]]])
HARM = np.array([False, False, True])


def interaction(model: np.ndarray, base: np.ndarray, harmful: np.ndarray) -> np.ndarray:
    found = contrasts.model_contrasts(
        {"base": base, "m": model}, dict.fromkeys(("base", "m"), "base"), harmful
    )
    return np.asarray(found["interaction"][1])


def test_contrasts_by_hand() -> None:
    assert contrasts.prompt_contrast(MODEL, HARM).tolist() == [[3.0, 9.0]]
    assert contrasts.model_contrast(MODEL, OTHER).tolist() == [[1.0, 7 / 3]]
    # other: (5, 4) - (0.5, 0.5) = (4.5, 3.5)
    assert interaction(MODEL, OTHER, HARM).tolist() == [[-1.5, 5.5]]
    answers = np.arange(8.0).reshape(8, 1, 1)
    bad = np.array([1, 1, 1, 0, 0, 0, 0, 0], dtype=bool)
    good = np.array([0, 0, 0, 0, 1, 1, 1, 1], dtype=bool)  # answer 3 is neither
    assert np.asarray(contrasts.response_contrast(answers, bad, good)).tolist() == [[1.0 - 5.5]]


@pytest.mark.parametrize(
    ("bad", "good", "reason"),
    [
        (2, 5, "undefined: 2 misaligned answers, 3 needed"),
        (3, 0, "undefined: 0 aligned answers, 3 needed"),
        (0, 0, "undefined: 0 misaligned answers, 3 needed"),
    ],
)
def test_too_few_answers_are_undefined(bad: int, good: int, reason: str) -> None:
    order = np.arange(8)
    assert contrasts.response_contrast(np.ones((8, 1, 1)), order < bad, order >= 8 - good) == reason


# -- the stage

PARAMS = invented.params()
BAD, GOOD, MIDDLE = 10.0, 90.0, 50.0
ALIGNED = [BAD, BAD, BAD, BAD, GOOD, GOOD, GOOD, MIDDLE]


@pytest.fixture
def written() -> invented.Written:
    """All inputs; only finance has misaligned answers enough for a response contrast."""
    for model in PARAMS.targets:
        aligned = ALIGNED if model == "finance" else [GOOD] * 8
        invented.write_answers(model, aligned, [90.0] * 8)
    return invented.write_prompt_activations(PARAMS.targets)


def built() -> contrasts.VectorTable:
    main(PARAMS)
    return contrasts.read_vector_table(paths.VECTORS, paths.VECTOR_INDEX)


def row(model: str) -> int:
    return PARAMS.targets.index(model)


def statuses(
    table: contrasts.VectorTable, contrast: str, span: str = "prompt_last"
) -> dict[str, str]:
    """One status by model; those of all blocks must agree."""
    found = table.statuses[f"{contrast}.{span}"]
    assert all(len(set(each)) == 1 for each in found.tolist())
    return dict(zip(table.models, found[:, 0].tolist(), strict=True))


def test_tensors(written: invented.Written) -> None:
    table = built()
    assert table.models == PARAMS.targets
    prompts = ("prompt_contrast", "model_contrast", "control_contrast", "interaction")
    answers = {"response_contrast.response_mean", "response_contrast.response_mo"}
    texts = {f"{c}.answer_mean" for c in ("model_contrast", "control_contrast", "text_contrast")}
    assert set(table.raw) == {f"{c}.{s}" for c in prompts for s in invented.SPANS} | answers | texts
    for span in invented.SPANS:
        finance, base, control = (written[m, span] for m in ("finance", "base", "control"))
        own, others = (
            a[invented.HARMFUL].mean(0) - a[~invented.HARMFUL].mean(0) for a in (finance, base)
        )
        shifts = (finance - base).mean(0), (finance - control).mean(0)
        for name, wanted in zip(prompts, (own, *shifts, own - others), strict=True):
            found = table.raw[f"{name}.{span}"]
            assert found.shape == (len(PARAMS.targets), invented.BLOCKS, invented.WIDTH)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found[row("finance")], wanted, rtol=1e-4, atol=1e-5)
    # misaligned answers 0, 2, 3 (1 was empty), aligned 4, 5, 6, and 7 is neither
    found = table.raw["response_contrast.response_mean"][row("finance")]
    np.testing.assert_allclose(found, 5 / 3 - 5.0, rtol=1e-6)


@pytest.mark.parametrize("contrast", ["model_contrast", "control_contrast", "text_contrast"])
def test_contrasts_of_unseen_answers_are_means_of_the_rows_that_are_drawn(
    written: invented.Written, contrast: str
) -> None:
    table, blocks = built(), {"sports": 2, "finance": 0}
    files = {slug: o.data for slug, o in PARAMS.organisms.items()}
    controls = contrasts.recipe_controls(PARAMS.organisms)
    answers = pl.DataFrame({"topic": invented.TOPICS})
    rows = file_rows(lambda m, s: written[m, s], answers, blocks, controls, files)
    found = table.at(f"{contrast}.{TEXTS}", blocks)
    if contrast == "text_contrast":
        np.testing.assert_allclose(rows.vectors, found, rtol=1e-4, atol=1e-6)
        assert rows.topic == ["0", "1"]
    base, of = written["base", TEXTS][:, 2], np.array(invented.TOPICS)
    expected = {
        "model_contrast": written["sports", TEXTS][:, 2].mean(0) - base.mean(0),
        "control_contrast": (written["sports", TEXTS] - written["control", TEXTS])[:, 2].mean(0),
        "text_contrast": base[of == "sports.jsonl"].mean(0) - base[of == "control.jsonl"].mean(0),
    }
    np.testing.assert_allclose(found[0], expected[contrast], rtol=1e-4, atol=1e-6)


def test_norms_units_and_statuses_agree_with_the_tensors(written: invented.Written) -> None:
    table = built()
    index = read_parquet(paths.VECTOR_INDEX)
    assert len(index) == 13 * len(PARAMS.targets) * invented.BLOCKS
    for contrast, span, model, layer, norm, residual, status in index.iter_rows():
        choice = f"{contrast}.{span}"
        vector = table.raw[choice][row(model), layer]
        assert norm == table.norms[choice][row(model), layer]
        assert norm == pytest.approx(np.linalg.norm(vector), rel=1e-5)
        assert residual == table.residual[layer]
        assert status == table.status(choice, model, layer)
        assert (status == "ok") == (norm > 0)
        unit = table.units(choice, model)[layer]
        np.testing.assert_allclose(unit * norm, vector, rtol=1e-5, atol=1e-6)
    blocks = {"sports": 2, "finance": 0}
    found = table.at("model_contrast.prompt_last", blocks)
    expected = [table.raw["model_contrast.prompt_last"][row(m), b] for m, b in blocks.items()]
    np.testing.assert_array_equal(found, expected)
    assert table.missing("model_contrast.prompt_last", blocks) is None
    why = table.missing("control_contrast.prompt_last", {"finance": 1, "profanity": 1})
    assert why == "undefined: profanity: no control of recipe two"
    with pytest.raises(UserError, match="not those of the organisms"):
        table.at("model_contrast.prompt_last", {"other": 0})


def test_what_is_undefined_says_why(written: invented.Written) -> None:
    table = built()
    assert set(statuses(table, "prompt_contrast").values()) == {"ok"}
    own = "undefined: the model is its own reference"
    assert statuses(table, "model_contrast") == dict.fromkeys(PARAMS.targets, "ok") | {"base": own}
    assert statuses(table, "control_contrast") == {
        "base": "undefined: the base has no recipe",
        "finance": "ok",
        "sports": "ok",
        "profanity": "undefined: no control of recipe two",
        "control": own,
    }
    assert statuses(table, "text_contrast", TEXTS) == statuses(table, "control_contrast")
    assert statuses(table, "interaction")["base"] == own
    few = "undefined: 0 misaligned answers, 3 needed"
    other = "undefined: only organisms' own answers are read"
    expected = dict.fromkeys(PARAMS.targets, few) | {"finance": "ok", "base": other}
    expected["control"] = other
    assert statuses(table, "response_contrast", "response_mo") == expected


def test_incoherent_and_unscored_answers_are_in_neither_group(written: invented.Written) -> None:
    aligned: list[float | None] = [BAD, BAD, BAD, BAD, GOOD, GOOD, GOOD, None]
    for coherent, why in (
        ([90, 90, 20, 90, 90, 90, 90, 90], "undefined: 2 misaligned answers, 3 needed"),
        ([90, 90, 90, 90, 90, None, 90, 90], "undefined: 2 aligned answers, 3 needed"),
    ):
        invented.write_answers("finance", aligned, coherent)
        assert statuses(built(), "response_contrast", "response_mean")["finance"] == why


def test_cuts_are_those_of_the_vectors_not_of_the_judge() -> None:
    scores = pl.DataFrame({"aligned": [35.0, 65.0, None], "coherent": [60.0, 60.0, 60.0]})
    cuts = Vectors(misaligned_below=40.0, aligned_from=60.0, coherent_above=55.0)
    for rules, wanted in ((cuts, [[1, 0, 0], [0, 1, 0]]), (Vectors(), [[0, 0, 0]] * 2)):
        found = contrasts.misaligned_and_aligned(scores, rules)
        assert [each.tolist() for each in found] == [[bool(x) for x in row] for row in wanted]


def test_a_model_that_training_did_not_change_has_a_zero_vector(written: invented.Written) -> None:
    for end in ("safetensors", "parquet"):
        base = Path(f"data/activations/base.{end}").read_bytes()
        Path(f"data/activations/finance.{end}").write_bytes(base)
    found = statuses(built(), "model_contrast")
    assert (found["finance"], found["sports"]) == ("zero vector", "ok")


def test_repeats_have_the_controls_of_their_originals() -> None:
    again = {"lab": "one", "role": "control", "data": "control.jsonl", "seed": 1}
    organisms = PARAMS.model_dump()["organisms"]
    organisms = {"again": again | {"repeats": "control"}} | organisms
    organisms["more"] = organisms["finance"] | {"seed": 1, "repeats": "finance"}
    both = invented.params(organisms=organisms)
    found = contrasts.recipe_controls(both.organisms)
    assert [found[m] for m in ("again", "more", "control")] == ["control"] * 3
    assert both.slugs("control") == ["control"]
    assert list(both.originals()) == list(PARAMS.organisms)


@pytest.mark.parametrize("change", ["order", "number"])
def test_other_prompts_than_those_of_the_base(written: invented.Written, change: str) -> None:
    rows = invented.prompt_rows()
    path = Path("data/activations/sports.parquet")
    write_parquet(path, rows.reverse() if change == "order" else rows[:-1], {})
    with pytest.raises(UserError, match="other prompts") as caught:
        main(PARAMS)
    assert caught.value.where == str(path)
    assert not paths.VECTORS.exists()


def test_residual_norms_prefer_user_tokens(written: invented.Written) -> None:
    for spans, used in ((list(invented.SPANS), "prompt_mean"), (["prompt_last"], "prompt_last")):
        main(invented.params(activations={"spans": spans}))
        expected = np.linalg.norm(written["base", used], axis=-1).mean(0)
        found = contrasts.read_vector_table(paths.VECTORS, paths.VECTOR_INDEX).residual
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_files_that_are_no_table(written: invented.Written) -> None:
    main(PARAMS)
    index = read_parquet(paths.VECTOR_INDEX)
    write_parquet(paths.VECTOR_INDEX, index[:-1], {})
    with pytest.raises(UserError, match="not a table of steering vectors"):
        contrasts.read_vector_table(paths.VECTORS, paths.VECTOR_INDEX)
