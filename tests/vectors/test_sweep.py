"""The choice of block and dose by margins: on invented gains, and the whole stage."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from em_geometry.errors import UserError
from em_geometry.io.results import Results, as_estimate, read_results
from em_geometry.project import paths
from em_geometry.settings import Params
from em_geometry.stats.estimate import Floats
from em_geometry.steering.conditions import Intervention, read_selected
from em_geometry.steering.pairs import Pair, Trial
from em_geometry.vectors import sweep
from em_geometry.vectors.contrasts import Entry, VectorTable
from tests import invented

SLUGS = ("finance", "sports")
CELLS = [(0, 0.2), (0, 0.4), (2, 0.2), (2, 0.4)]
FAR = "every dose costs more than 0.5 nats a token; the least taken"


def found(gain: Sequence[Sequence[float]], damage: Any = 0.0) -> sweep.Tried:
    """What was tried, from mean gains [organism, cell]."""
    gains = np.array(gain, dtype=float).T[..., None] + np.array([-0.1, 0.1])
    harm = np.broadcast_to(np.array(damage, dtype=float).T, gains.shape[:2])
    names = SLUGS[: len(gain)]
    return sweep.Tried(names, CELLS, gains, np.full((4, 3), 0.05), np.array(harm))


@pytest.mark.parametrize(
    ("rule", "gain", "damage", "expected"),
    [
        # the mean over organisms decides for all, or each for itself, or within a given block
        ("common", [[1, 2, 9, 3], [5, 8, 0, 3]], 0.0, [(0, 0.4), (0, 0.4)]),
        ("per_model", [[1, 2, 9, 3], [5, 8, 0, 3]], 0.0, [(2, 0.2), (0, 0.4)]),
        (2, [[1, 2, 9, 3], [5, 8, 0, 3]], 0.0, [(2, 0.2), (2, 0.2)]),
        # what damages too much does not count; what is at the limit does
        ("common", [[1, 2, 9, 3]], [[0, 0.5, 0.6, 0]], [(2, 0.4)]),
        ("common", [[1, 4, 9, 3]], [[0, 0.5, 0.6, 0]], [(0, 0.4)]),
        # ties go to the lower block and dose
        ("common", [[1, 1, 1, 1]], 0.0, [(0, 0.2)]),
    ],
)
def test_the_choice(rule: Any, gain: Any, damage: Any, expected: list[sweep.Cell]) -> None:
    chosen = sweep.choose(found(gain, damage), rule, 0.5)
    assert [(c.layer, c.dose) for c in chosen.values()] == expected
    assert {c.status for c in chosen.values()} == {"ok"}


def test_where_all_is_damaged_the_least_is_taken() -> None:
    tried = found([[1, 2, 9, 3]], [[0.9, 0.8, 0.7, 0.6]])
    assert sweep.choose(tried, "common", 0.5)["finance"] == sweep.Choice(2, 0.4, FAR)
    assert sweep.choose(tried, 0, 0.5)["finance"] == sweep.Choice(0, 0.4, FAR)


def test_a_given_block_joins_the_grid() -> None:
    settings = params(layer_sweep={"layers": [2, 0], "doses": [0.4, 0.2]}).layer_sweep
    assert sweep.cells_of(settings, "common") == CELLS
    assert sweep.cells_of(settings, 1)[2:4] == [(1, 0.2), (1, 0.4)]


# -- a base that gains by what is added along known directions

WIDTH, BLOCKS, PAIRS = 6, 3, 4
RESIDUAL = np.array([10.0, 20.0, 30.0])
BAD, HARM = np.eye(WIDTH)[0], np.eye(WIDTH)[1]
BEND = np.linspace(-0.2, 0.2, PAIRS)  # pairs differ in how far they move


def read(ways: Sequence[Intervention | None]) -> Floats:
    """Adding along BAD favours the marked answers, at block 2 twice as much; HARM costs both."""
    rows = []
    for how in ways:
        both = np.tile([-2.0, -2.5], (PAIRS, 1))
        if how is not None:
            moved = how.coefficient / RESIDUAL[how.layer] * how.vector
            gain = (moved @ BAD) * (2.0 if how.layer == 2 else 1.0) * (1 + BEND)
            both += np.stack([gain / 2, -gain / 2], axis=-1) - moved @ HARM
        rows.append(both)
    return np.stack(rows)


def unit(*numbers: float) -> Floats:
    vector = np.zeros(WIDTH)
    vector[: len(numbers)] = numbers
    tiled: Floats = np.tile(vector / np.linalg.norm(vector), (BLOCKS, 1))
    return tiled


UNITS = {"finance": unit(1), "sports": unit(3, 4)}
CHANCE = np.stack([unit(0, 0, 1)[0], unit(1, 0, 1)[0]])


def test_gains_are_beyond_random_directions_of_the_same_norm() -> None:
    tried = sweep.tried(read, UNITS, CHANCE, CELLS, RESIDUAL)
    chance = 0.5 * 0.5**0.5  # mean of the two directions' parts along BAD
    np.testing.assert_allclose(tried.gain[1].mean(-1), 0.4 * (np.array([1, 0.6]) - chance))
    np.testing.assert_allclose(tried.gain[3].mean(-1), 0.8 * (np.array([1, 0.6]) - chance))
    np.testing.assert_allclose(tried.random[3], [0, 0.8 * 0.5**0.5])
    np.testing.assert_allclose(tried.damage, [[0, 0.8 * d] for _, d in CELLS], atol=1e-12)
    assert tried.gain.shape == (4, 2, PAIRS)
    chosen = sweep.choose(tried, "common", 0.5)
    assert {(c.layer, c.dose) for c in chosen.values()} == {(2, 0.4)}
    rows = sweep.block_rows(tried, chosen)
    np.testing.assert_allclose(rows[1], [2, *tried.gain[3].mean(-1), 0.4 * 0.5**0.5])


def table() -> VectorTable:
    """Two spans of a contrast, of which one has no vector of sports; models and repeats."""
    models = ["base", *SLUGS, "control", "finance_b", "control_b"]
    shift = [2 * unit(1), 3 * unit(3, 4), unit(0, 0, 1), unit(1, 0, 1), unit(0, 0, 2, 1)]
    entries: dict[str, list[Entry]] = {
        "control_contrast.answer_mean": ["undefined: none", 2 * unit(1), 3 * unit(3, 4),
                                         "undefined: itself", unit(1, 1), "undefined: none"],
        "model_contrast.answer_mean": ["undefined: itself", *shift],
        "model_contrast.prompt_last": ["undefined: itself", unit(0, 1), "undefined: x", *shift[2:]],
    }  # fmt: skip
    return VectorTable.of(models, entries, RESIDUAL)


def params(**sections: Any) -> Params:
    known = invented.params().model_dump()["organisms"]
    organisms = {slug: known[slug] for slug in (*SLUGS, "control")}
    for slug in ("finance", "control"):
        organisms[f"{slug}_b"] = organisms[slug] | {"repeats": slug, "seed": 1}
    grid = {"layers": [0, 2], "doses": [0.2, 0.4], "random_directions": 2}
    chosen = {"contrast": "control_contrast", "span": "answer_mean"}
    rest = {"vectors": chosen, "layer_sweep": grid, "transfer": {"pairs": []}} | sections
    return invented.params(organisms=organisms, **rest)


def test_every_contrast_and_span_is_tried_at_all_doses() -> None:
    chosen = {slug: sweep.Choice(2, 0.4) for slug in SLUGS}
    settings = params().layer_sweep
    every = sweep.contrast_efficacy(read, table(), chosen, CHANCE, settings)
    rows = {key: as_estimate(leaf) for key, leaf in every.items()}
    chance = 0.5 * 0.5**0.5
    best = rows["efficacy.control_contrast.answer_mean"]
    assert best.value == pytest.approx(0.8 * (0.8 - chance))
    assert best.low is not None and best.low < 0.8 * (0.8 - chance)
    assert rows["efficacy.control_contrast.answer_mean.0_2"].value == pytest.approx(
        0.4 * (0.8 - chance)
    )
    assert rows["efficacy.control_contrast.answer_mean.dose"].value == 0.4
    assert rows["efficacy.model_contrast.prompt_last.vectors"].value == 1
    assert rows["efficacy.model_contrast.prompt_last.without.sports"].status == "undefined: x"
    assert rows["efficacy.model_contrast.prompt_last.0_4.damage"].value == pytest.approx(0.4)


def test_vectors_beside_the_chosen_ones() -> None:
    run = params()
    chosen = {slug: sweep.Choice(2, 0.4) for slug in SLUGS}
    units = sweep.candidates(table(), "control_contrast.answer_mean", SLUGS, [0, 2])
    selected = sweep.selected_of(table(), units, chosen, run.vectors)
    others = sweep.other_vectors(table(), selected, run.organisms, run.repeats())
    assert list(others) == [
        ("benign", "control"), ("retrained", "finance@finance_b"),
        ("retrained", "finance@control_b"), ("retrained", "sports@control_b"),
    ]  # fmt: skip
    np.testing.assert_allclose(others["benign", "control"].vector, unit(0, 0, 1)[0], atol=1e-6)
    np.testing.assert_allclose(
        others["retrained", "finance@finance_b"].vector, unit(1, 1)[0], atol=1e-6
    )
    moved = 2 * unit(1)[0] - unit(0, 0, 2, 1)[0]  # organism minus base, minus repeat minus base
    np.testing.assert_allclose(
        others["retrained", "finance@control_b"].vector, moved / np.linalg.norm(moved), atol=1e-6
    )
    assert {(v.layer, v.coefficient) for v in others.values()} == {(2, 12.0)}


def test_a_contrast_that_is_not_there() -> None:
    with pytest.raises(UserError, match="no vectors of this contrast") as caught:
        sweep.candidates(table(), "model_contrast.response_mean", SLUGS, [0])
    assert "model_contrast.prompt_last" in str(caught.value.expected)
    with pytest.raises(UserError, match="no steering vector") as caught:
        sweep.candidates(table(), "model_contrast.prompt_last", SLUGS, [0, 2])
    assert "sports" in str(caught.value.where)
    assert caught.value.found == "undefined: x"


# -- the stage, with a base that is made up


@pytest.fixture
def stage(workplace: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    import stages.layer_sweep as module

    base = SimpleNamespace(sha256="weights")
    pairs = [
        Pair(id=f"m{i}", kind="misaligned", split=split, topic="t", question="?", marked="b",
             plain="a") for i in range(PAIRS) for split in ("choosing", "reporting")
    ]  # fmt: skip

    def measured(known: Any, loaded: Any, some: Any, trials: Sequence[Trial], *rest: Any) -> Any:
        assert all(t.pairs == (0, 2, 4, 6) for t in trials)  # those that choose
        return list(read([t.how for t in trials]))

    monkeypatch.setattr(module, "models", lambda p: SimpleNamespace(load=lambda slug: base))
    monkeypatch.setattr(module, "vector_table", table)
    monkeypatch.setattr(module, "read_pairs", lambda folder: pairs)
    monkeypatch.setattr(module, "measured", measured)
    return module


def swept(stage: Any, rules: Params) -> Results:
    stage.main(rules)
    return read_results(paths.table("layer_sweep"))


def test_the_stage(stage: Any) -> None:
    rows = swept(stage, params()).rows
    assert (rows["layer"].value, rows["dose"].value, rows["pairs"].value) == (2, 0.4, 4)
    for slug, chosen in read_selected(paths.SELECTED).items():
        assert (chosen.layer, chosen.dose, chosen.coefficient) == (2, 0.4, 12.0)
        assert (chosen.contrast, chosen.span) == ("control_contrast", "answer_mean")
        assert chosen.norm == pytest.approx({"finance": 2, "sports": 3}[slug])
        np.testing.assert_allclose(chosen.vector, UNITS[slug][2], atol=1e-6)
        assert rows[f"{slug}.gain"].value == rows[f"grid.2.0_4.{slug}"].value
        assert [rows[f"{slug}.edge.{k}"].status for k in ("layer", "dose")] == ["yes", "yes"]
        assert rows[f"{slug}.best_layer_by_margin"].value == 2
        assert rows[f"{slug}.status"].status == "ok"
    assert rows["grid.2.0_4.mean"].n == PAIRS
    assert rows["grid.2.0_4.random"].n == 2
    plot = pl.read_csv(paths.plot("layer_sweep.csv"))
    assert plot.columns == ["layer", *SLUGS, "random"]
    assert plot["layer"].to_list() == [0, 2]


@pytest.mark.parametrize(
    ("sections", "where"),
    [
        ({"layer_sweep": {"layers": [0, BLOCKS]}}, "layer_sweep.layers"),
        ({"vectors": {"contrast": "control_contrast", "layer": BLOCKS}}, "vectors.layer"),
    ],
)
def test_a_block_beyond_the_model(stage: Any, sections: dict[str, Any], where: str) -> None:
    with pytest.raises(UserError, match="no such block") as caught:
        stage.main(params(**sections))
    assert caught.value.where == f"params.yaml: {where}"
    assert caught.value.expected == f"0 to {BLOCKS - 1}"
