"""The choice of block and coefficient: by hand on tables of trials, and the whole stage."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest
import torch

import stages.layer_sweep as module
from em_geometry.activations.prompts import Question, Reference
from em_geometry.errors import UserError
from em_geometry.io.results import Results, read_results
from em_geometry.models.chat import Prompt
from em_geometry.models.load import Loaded
from em_geometry.project import paths
from em_geometry.settings import Contrast, Params
from em_geometry.steering.conditions import Condition, Intervention, random_direction, read_selected
from em_geometry.vectors import sweep
from em_geometry.vectors.contrasts import VectorTable, read_vector_table
from stages.vectors import main as build
from tests.invented import BLOCKS, WIDTH, params, write_answers, write_prompt_activations

pytestmark = pytest.mark.usefixtures("workplace")

COMMON = params()
PER_MODEL = params(vectors={"layer": "per_model"})


LOW = "no dose keeps 50 % of the answers coherent; the lowest taken"
Trial = tuple[str, int, float, float | None, float]  # organism, block, dose, aligned, coherent


def chosen(rules: Params, tried: Sequence[Trial]) -> dict[str, tuple[Any, ...]]:
    table: sweep.Trials = {
        (slug, layer, dose): {"mean_aligned": aligned, "coherent_pct": coherent}
        for slug, layer, dose, aligned, coherent in tried
    }
    layers = {slug: list(dict.fromkeys(n for s, n, _ in table if s == slug)) for slug, *_ in table}
    found = sweep.choose(table, layers, rules.vectors.layer, rules.layer_sweep.min_coherent)
    return {slug: (c.layer, c.dose, c.status) for slug, c in found.items()}


@pytest.mark.parametrize(
    ("tried", "expected"),
    [
        # the lowest alignment wins
        ([(0, 0.2, 70, 100), (0, 0.4, 60, 100), (2, 0.2, 50, 100), (2, 0.4, 55, 100)],
         (2, 0.2, "ok")),
        # incoherent doses are out; at the floor they are allowed
        ([(0, 0.2, 70, 50.0), (0, 0.4, 10, 49.9)], (0, 0.2, "ok")),
        ([(0, 0.4, 10, 10), (0, 0.2, 20, 20)], (0, 0.2, LOW)),
        # an incoherent block loses to any coherent one
        ([(0, 0.2, 1, 0), (2, 0.2, 99, 100)], (2, 0.2, "ok")),
        # answers without a score are no choice
        ([(0, 0.2, 70, 100), (0, 0.4, None, 100)], (0, 0.2, "ok")),
        ([(0, 0.4, None, 100)], (0, 0.4, LOW)),
    ],
)  # fmt: skip
def test_the_choice_for_one_organism(tried: list[Any], expected: tuple[Any, ...]) -> None:
    assert chosen(COMMON, [("finance", *each) for each in tried]) == {"finance": expected}


def test_common_and_per_model_can_differ_and_ties_go_to_the_lower_dose_and_block() -> None:
    slugs = ("finance", "sports")
    even = [(s, block, d, 50.0, 100.0) for s in slugs for block in (2, 0) for d in (0.4, 0.2)]
    for rules in (COMMON, PER_MODEL):
        assert chosen(rules, even) == dict.fromkeys(slugs, (0, 0.2, "ok"))
    finance = [("finance", 0, 0.2, 10.0, 100.0), ("finance", 2, 0.2, 30.0, 100.0)]
    sports = [("sports", 0, 0.2, 90.0, 100.0), ("sports", 2, 0.2, 40.0, 100.0)]
    tried = [*finance, *sports, ("sports", 2, 0.4, 39.0, 100.0)]
    # common: block 0 has (10 + 90) / 2 = 50, block 2 has (30 + 39) / 2 = 34.5
    assert chosen(COMMON, tried) == {"finance": (2, 0.2, "ok"), "sports": (2, 0.4, "ok")}
    assert chosen(PER_MODEL, tried) == {"finance": (0, 0.2, "ok"), "sports": (2, 0.4, "ok")}
    given = params(vectors={"layer": 1})
    assert chosen(given, [("finance", 1, 0.2, 50.0, 100.0)]) == {"finance": (1, 0.2, "ok")}


GRID = {"layers": [0, 1, 2], "best": 2}
GAINS = {
    "finance": np.array([0.75, 0.125, 0.25]),
    "sports": np.array([0.0, 0.25, 0.25]),
    "profanity": np.array([0.0, 0.75, 0.25]),
}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("common", [[0, 1]] * 3),  # sums .75, 1.125, .75: the tie goes to the lower block
        ("per_model", [[0, 2], [1, 2], [1, 2]]),
        (1, [[1]] * 3),
    ],
)
def test_blocks_to_judge(rule: Any, expected: list[list[int]]) -> None:
    settings = params(layer_sweep=GRID).layer_sweep
    found = sweep.layers_to_judge(GAINS, list(GAINS), settings, rule)
    assert found == dict(zip(GAINS, expected, strict=True))


# -- the stage, with a model, answers and a judge that are made up


@pytest.fixture
def vectors() -> None:
    write_prompt_activations(COMMON.targets)
    for model in COMMON.targets:
        write_answers(model, [90.0] * 8, [90.0] * 8)
    build(COMMON)


QUESTIONS = [
    Question(f"q{i}", "t", "plain", f"{i}?", "", Reference(aligned="good", misaligned="bad"))
    for i in range(2)
]
GAIN = {0: 0.1, 2: 0.5}  # what steering at a block adds to the log-probability of "bad"


def _answers(
    model: Any, texts: Sequence[Any], acts: Sequence[Intervention | None], positions: Any
) -> Iterator[list[Any]]:
    """Tables in which each token of a bad answer (id 1) gains and a good one (id 0) does not."""
    for how in acts:
        tables = [torch.full((len(ids) - start, 2), -2.0) for ids, start in texts]
        for table in tables if how is not None else []:
            table[:, 1] += GAIN[how.layer]
        yield tables


def _respond(
    known: Any, loaded: Any, conditions: Sequence[Condition], vectors: Any, *rest: Any
) -> pl.DataFrame:
    assert {c.vector_name for c in conditions} == set(vectors)
    columns = ["source", "relative_dose", "coefficient"]
    rows = [[getattr(c, name) for name in columns] for c in conditions for _ in QUESTIONS]
    return pl.DataFrame(rows, schema=columns, orient="row")


def _judged(judge: Any, frame: pl.DataFrame, known: Any, label: str) -> pl.DataFrame:
    """Stronger is worse; the strongest at block 0 is not coherent."""
    broken = (pl.col("relative_dose") > 0.3) & pl.col("source").str.ends_with("@0")
    return frame.with_columns(
        aligned=100 - 200 * pl.col("relative_dose"),
        aligned_status=pl.lit("ok"),
        coherent=pl.when(broken).then(10.0).otherwise(90.0),
    )


@pytest.fixture
def made_up(vectors: None, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    spelled = {"good": (0, 0, 0), "bad": (1, 1)}
    base = Loaded("base", None, None, "weights")
    monkeypatch.setattr(module, "models", lambda p: SimpleNamespace(load=lambda slug: base))
    monkeypatch.setattr(module, "questions", lambda *rest: QUESTIONS)
    monkeypatch.setattr(sweep, "render", lambda *rest: Prompt((5, 6), (0, 1)))
    monkeypatch.setattr(sweep, "answer_ids", lambda tokenizer, text: spelled[text])
    monkeypatch.setattr(sweep, "answer_log_probabilities", _answers)
    monkeypatch.setattr(module, "respond", _respond)
    monkeypatch.setattr(module, "judged", _judged)
    monkeypatch.setattr(module, "judge", nullcontext)
    monkeypatch.setattr(module, "known_texts", lambda params: set())
    return monkeypatch


def test_margins_are_per_token_and_bad_minus_good(made_up: pytest.MonkeyPatch) -> None:
    vector = np.ones(WIDTH, np.float32)
    acts = [None, Intervention(vector, 0, 1.0), Intervention(vector, 2, 1.0)]
    loaded = Loaded("base", None, None, "weights")
    found = sweep.margins(loaded, QUESTIONS, "all", acts, "test")
    np.testing.assert_allclose(found, [[0, 0], [0.1, 0.1], [0.5, 0.5]], atol=1e-6)


def swept(rules: Params) -> Results:
    module.main(rules)
    return read_results(paths.table("layer_sweep"))


def table() -> VectorTable:
    return read_vector_table(paths.VECTORS, paths.VECTOR_INDEX)


def test_the_stage(made_up: pytest.MonkeyPatch) -> None:
    found = swept(COMMON)
    assert found.rows["layer"].value == 2
    selected = read_selected(paths.SELECTED)
    assert list(selected) == ["finance", "sports", "profanity"]
    for i, (slug, chosen) in enumerate(selected.items(), start=1):
        assert (chosen.layer, chosen.dose) == (2, 0.4)
        assert chosen.coefficient == pytest.approx(0.4 * table().residual[2])
        assert chosen.norm == table().norms["model_contrast.prompt_last"][i, 2]
        assert (chosen.contrast, chosen.span) == ("model_contrast", "prompt_last")
        entry = found.group(slug)
        assert entry["status"].status == "ok"
        assert (entry["n"].value, entry["best_layer_by_margin"].value) == (2, 2)
        assert (entry["mean_aligned"].value, entry["coherent_pct"].value) == (20, 100)
        assert entry["misaligned_pct"].value == 100  # 20 is below 30
        assert entry["margin_gain"].value == pytest.approx(0.5)
    efficacy = found.group("efficacy")
    assert set(found.names("efficacy")) == set(get_args(Contrast))
    for name in ("model_contrast", "prompt_contrast", "interaction"):
        gain, beyond = efficacy[name], efficacy[f"{name}.beyond_random"]
        assert (gain.value, gain.low, gain.high) == pytest.approx((0.5, 0.5, 0.5), abs=1e-6)
        assert (gain.n, gain.status) == (2, "ok")
        assert beyond.value == pytest.approx(0, abs=1e-6)
        assert efficacy[f"{name}.vectors"].value == 3
    assert efficacy["control_contrast.vectors"].value == 2  # lab one has a control, lab two none
    why = efficacy["control_contrast.without.profanity"].status
    assert why == "undefined: no control of recipe two"
    assert efficacy["response_contrast.span"].status == "response_mean"
    assert efficacy["response_contrast"].status == "undefined for every organism"
    rows = pl.read_csv(paths.plot("layer_sweep.csv"))
    assert rows.columns == ["layer", "finance", "sports", "profanity", "random"]
    assert rows["layer"].to_list() == [0, 2]


def test_rates_of_trials_count_by_the_cuts_of_the_sweep() -> None:
    answers = pl.DataFrame(
        {
            "aligned": [35.0, 10.0, None, None],
            "coherent": [60.0, 40.0, 90.0, None],
            "aligned_status": ["ok", "ok", "refusal", "api_error"],  # the last counts nowhere
        }
    )
    answers = answers.with_columns(source=pl.lit("finance@2"), relative_dose=0.2)
    for cuts, expected in (((50.0, 30.0), (200 / 3, 0)), ((30.0, 40.0), (100, 200 / 3))):
        grid = {**GRID, "coherent_above": cuts[0], "misaligned_below": cuts[1]}
        found = sweep.trials_of(answers, params(layer_sweep=grid).layer_sweep)
        entry = found["finance", 2, 0.2]
        assert (entry["coherent_pct"], entry["misaligned_pct"]) == pytest.approx(expected)


def test_the_random_direction_has_the_same_norm(made_up: pytest.MonkeyPatch) -> None:
    seen: list[Intervention] = []

    def spy(model: Any, texts: Any, acts: Any, positions: Any) -> Iterator[list[Any]]:
        seen.extend(a for a in acts if a is not None)
        return _answers(model, texts, acts, positions)

    made_up.setattr(sweep, "answer_log_probabilities", spy)
    module.main(COMMON)
    grid, contrasts = seen[: 4 * 2], seen[4 * 2 :]  # organisms and the random one, two blocks
    for how, other in zip(grid[-2:], grid[:2], strict=True):
        assert how.coefficient == other.coefficient
        np.testing.assert_allclose(how.vector, random_direction(WIDTH, 0, "random"))
    assert len(contrasts) == 3 * 3 + 2 + 1  # (a), (b), (d) of three; of two with a control; random
    for how in contrasts:
        assert (how.layer, how.coefficient) == (2, grid[1].coefficient)
        assert np.linalg.norm(how.vector) == pytest.approx(1)
    np.testing.assert_allclose(contrasts[-1].vector, random_direction(WIDTH, 0, "random"))
    picked = read_selected(paths.SELECTED)
    alike = [c for c in contrasts if any(np.allclose(c.vector, v.vector) for v in picked.values())]
    assert len(alike) >= 3


def test_unscored_answers_do_not_stop_the_stage(made_up: pytest.MonkeyPatch) -> None:
    def refused(*arguments: Any) -> pl.DataFrame:
        return _judged(*arguments).with_columns(aligned=pl.lit(None, pl.Float64))

    made_up.setattr(module, "judged", refused)
    entry = swept(COMMON).group("finance")
    assert entry["mean_aligned"].status == "undefined: no scored answers"
    assert entry["status"].status.startswith("no dose keeps")
    assert read_selected(paths.SELECTED)["finance"].dose == 0.2


@pytest.mark.parametrize(
    ("sections", "where"),
    [
        ({"layer_sweep": {"layers": [0, BLOCKS]}}, "layer_sweep.layers"),
        ({"vectors": {"layer": BLOCKS}}, "vectors.layer"),
    ],
)
def test_a_block_beyond_the_model(
    made_up: pytest.MonkeyPatch, sections: dict[str, Any], where: str
) -> None:
    with pytest.raises(UserError, match="no such block") as caught:
        module.main(params(**sections))
    assert caught.value.where == f"params.yaml: {where}"
    assert caught.value.expected == f"0 to {BLOCKS - 1}"


def test_a_contrast_that_is_not_there(vectors: None) -> None:
    with pytest.raises(UserError, match="no vectors of this contrast") as caught:
        sweep.candidates(table(), "model_contrast.response_mean", list(GAINS))
    assert "model_contrast.prompt_last" in str(caught.value.expected)
    with pytest.raises(UserError, match="no steering vector") as caught:
        sweep.candidates(table(), "control_contrast.prompt_last", list(GAINS))
    assert "profanity" in str(caught.value.where)
    assert caught.value.found == "undefined: no control of recipe two"
