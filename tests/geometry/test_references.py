"""References, retraining and the multiverse on models whose shifts are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from em_geometry.geometry import references
from em_geometry.geometry.calibration import Evidence, calibrate_rows
from em_geometry.geometry.methods import across_mean, cosines, unit_gram
from em_geometry.geometry.multiverse import NO_SHIFT, Reading, multiverse
from em_geometry.geometry.references import REFERENCES, Finetunes, Spread, main_statistics
from em_geometry.geometry.samples import (
    PromptRows,
    between_dimension,
    exchanged_draws,
    finetune_draws,
)
from em_geometry.io.results import as_estimate
from em_geometry.settings import Geometry
from em_geometry.stats.arrays import Floats
from em_geometry.stats.estimate import Estimate
from em_geometry.stats.permutation import null_p

NAMES = ["a", "b", "c", "d", "e", "f"]
CLUSTERS = {"x": ["a", "b"], "y": ["c", "d"], "z": ["e", "f"]}
MEMBERS = {"x": [0, 1], "y": [2, 3], "z": [4, 5]}
CONTROLS = ["p", "q", "r", "s"]
OWN = dict(zip(NAMES, "pppqqr", strict=True))
FAMILY = Finetunes(NAMES, CONTROLS, OWN, {"c2": "c", "e2": "e", "p2": "p", "q2": "q"})
RULES = Geometry(focus=["y", "z"], replicates=300)
WIDTH, TOPICS = 200, 10


def shifts(
    rng: np.random.Generator, core: float = 0.0, private: float = 1.0, width: int = WIDTH
) -> Floats:
    """Shifts [model, width]: what fine-tuning does, the organisms' core, parts of their own."""
    rows = np.tile(rng.standard_normal(width), (len(FAMILY.models), 1))
    rows += private * rng.standard_normal(rows.shape)
    misaligned = [FAMILY.models.index(m) for m in (*NAMES, "c2", "e2")]
    rows[misaligned] += core * rng.standard_normal(width)
    return rows


def spread(models: Floats, weights: Floats | str) -> Spread:
    assert not isinstance(weights, str)
    gram = models @ models.T
    without = np.stack([gram] * (1 + TOPICS))
    return Spread(FAMILY, weights, without,
                  lambda key: references.rests_on(key, NAMES, MEMBERS, RULES))  # fmt: skip


def test_vectors_are_differences_from_what_they_are_compared_with() -> None:
    models = shifts(np.random.default_rng(0))
    place = {name: models[i] for i, name in enumerate(FAMILY.models)}
    expected = {
        "base": place["c"],
        "one_control": place["c"] - place["p"],
        "own_control": place["c"] - place["p"],
        "mean_control": place["c"] - np.mean([place[m] for m in CONTROLS], axis=0),
    }
    for reference in REFERENCES:
        weights = FAMILY.weights(reference)
        assert not isinstance(weights, str)
        assert (weights @ models)[2] == pytest.approx(expected[reference])
    own = FAMILY.weights("own_control")
    assert not isinstance(own, str)
    moved = FAMILY.retrained(own, {"p": "p2", "c": "c2"}) @ models
    assert moved[2] == pytest.approx(place["c2"] - place["p2"])
    assert moved[5] == pytest.approx(place["f"] - place["r"])
    trainings = FAMILY.trainings(own)
    assert len(trainings) == 2**4 and (trainings[0] == own).all()
    assert len({rows.tobytes() for rows in trainings}) == 16


def test_without_controls_only_the_base_is_a_reference() -> None:
    alone = Finetunes(NAMES)
    assert not isinstance(alone.weights("base"), str)
    assert {alone.weights(r) for r in REFERENCES[1:]} == {"undefined: no controls"}
    some = Finetunes(NAMES, ["p"], OWN | {"b": "undefined: no control of recipe k"})
    assert some.weights("own_control") == "undefined: b: no control of recipe k"


def test_main_statistics_are_about_whom_their_keys_name() -> None:
    def rests(key: str) -> str:
        return "".join(NAMES[i] for i in references.rests_on(key, NAMES, MEMBERS, RULES))

    for key, who in {
        "cosine.a__e": "ae", "angle_deg.a__f": "af", "cluster_angle.x__z": "abef",
        "cross_mean": "abcdef", "test1": "cdef",
        "test4": "abcdef", "statistic.test5": "cdef", "cluster_angle.x__y_deg": "abcd",
        "orthogonality.x_on_z.a.magnitude": "abef", "similarity.within.y": "cd",
        "cross_variance.y_pc1_in_z.centred_pct": "cdef", "core.share": "abcdef",
    }.items():  # fmt: skip
        assert rests(key) == who, key
    kinds = {references.kind_of(k) for k in ("cosine.a__b", "cosine.c__d")}
    assert kinds == {"cosine.*"}
    assert references.kind_of("similarity.within.x") == references.kind_of("similarity.within.y")


def test_retraining_of_other_models_stands_in_where_there_is_none() -> None:
    models = shifts(np.random.default_rng(1))
    weights = FAMILY.weights("own_control")
    found = spread(models, weights).estimates(
        lambda grams: main_statistics(grams, NAMES, MEMBERS, RULES)
    )
    # a and b rest on control p, which has a repeat, and on no organism with one
    prompts, both = found["cosine.a__b.prompts_only"], found["cosine.a__b"]
    assert prompts.width == pytest.approx(0, abs=1e-9)  # all topics are alike here
    assert both.low is not None and both.high is not None and both.value is not None
    assert both.low < both.value < both.high
    assert all(e.low >= -1 and (e.high or 0) <= 1 for k, e in found.items()
               if k.startswith("cosine") and e.low is not None)  # fmt: skip


def test_intervals_hold_the_true_angle_of_a_core() -> None:
    """Prompts and retraining together: the angle of infinitely many trainings is covered."""
    rng, held, runs = np.random.default_rng(2), 0, 200
    weights = FAMILY.weights("own_control")
    for _ in range(runs):
        models = shifts(rng, core=1.0, private=0.5, width=2000)
        found = spread(models, weights).estimates(
            lambda grams: {"cross_mean": across_mean(grams, MEMBERS)}
        )["cross_mean"]
        # core^2 + shared control, over core^2 + own^2 + control^2
        true = np.mean([(1 + 0.25 * (OWN[NAMES[i]] == OWN[NAMES[j]])) / 1.5
                        for i, j in itertools.combinations(range(6), 2)
                        if i // 2 != j // 2])  # fmt: skip
        assert found.low is not None and found.high is not None
        held += found.low <= true <= found.high
    assert held / runs > 0.93


def test_a_conclusion_holds_where_its_whole_interval_does() -> None:
    assert references.said(Estimate(95.0, 91.0, 99.0), 1, 90.0) == "yes"
    assert references.said(Estimate(95.0, 89.0, 99.0), 1, 90.0) == "cannot tell"
    assert references.said(Estimate(0.5, 0.4, 0.6), -1, -0.3) == "no"
    assert references.said(Estimate(0.1, 0.0, 0.2), -1, -0.3) == "yes"
    assert references.said(Estimate(0.1), -1, -0.3) == "cannot tell"
    assert references.said(Estimate.undefined("no"), -1, -0.3).startswith("undefined")


def test_no_interval_goes_where_its_statistic_cannot() -> None:
    wide = Estimate(-50.0, -150.0, 150.0)
    for key, low, high in (
        ("cross_variance.a_pc1_in_b.centred_pct", 0.0, 100.0),
        ("residual.a__b__c.reduction_pct", -150.0, 150.0),  # a mean can rise without bound
        ("pc1_ablation.a__b.after", -1.0, 1.0),
    ):
        kept = references.within_range(key, wide)
        assert (kept.low, kept.high) == (low, high)


def test_every_reference_has_its_numbers_conclusions_and_verdicts() -> None:
    models = shifts(np.random.default_rng(3), core=1.0)
    spreads: dict[str, Spread | str] = {
        name: spread(models, FAMILY.weights(name)) for name in REFERENCES
    }
    spreads["elsewhere"] = "undefined: no controls"
    found = references.reference_results(spreads, NAMES, MEMBERS, RULES)
    assert found["reference.elsewhere"] == "undefined: no controls"
    gram = unit_gram(models[:6])
    assert as_estimate(found["reference.base.cosine.a__f"]).value == pytest.approx(gram[0, 5])
    said = {found[f"reference.base.holds.{c}"] for c in references.conclusions(RULES)}
    assert said <= {"yes", "no", "cannot tell", references.UNDEFINED}
    angle = as_estimate(found["reference.base.angle_deg.y__z"])
    only = as_estimate(found["reference.base.angle_deg.y__z.prompts_only"])
    assert (
        (angle.width or 0) > 1 > (only.width or 0)
    )  # both clusters have an organism with a repeat
    counts = [found[f"reference.base.verdict_count{end}"] for end in ("", ".lowest", ".highest")]
    assert counts[1] <= counts[0] <= counts[2]  # type: ignore[operator]
    assert as_estimate(found["reference.base.independent.test1"]).n == 16


def test_the_multiverse_counts_the_cells_in_which_conclusions_hold() -> None:
    rng, apart = np.random.default_rng(4), np.eye(len(FAMILY.models), WIDTH)
    readings = [
        Reading("last", 4, apart, np.array([WIDTH - 1])),
        Reading("last", 8, shifts(rng, core=9.0), np.array([0])),
        Reading("last", 0, 0 * apart, np.array([0])),
    ]
    header, rows, found = multiverse(FAMILY, readings, MEMBERS, RULES)
    assert len(rows) == 3 * 2 * 4 and found["multiverse.cells"] == 16
    cells = [dict(zip(header, row, strict=True)) for row in rows]
    assert {c["status"] for c in cells if c["block"] == 0} == {NO_SHIFT}
    right = next(c for c in cells if (c["reference"], c["block"]) == ("base", 4))
    assert (right["angle_deg"], right["cross_mean"]) == (90.0, 0.0)
    assert (right["cross_mean_small"], right["angle_above_90"]) == (1.0, 0.0)
    share = as_estimate(found["multiverse.base.cross_mean_small"])
    assert (share.value, share.n) == (50.0, 4)
    assert as_estimate(found["multiverse.trainings.cross_mean_small"]).n == 16 * 16


def test_the_dimension_between_fine_tunes_is_not_bounded_by_their_number() -> None:
    rng = np.random.default_rng(5)
    of = [*"abcdefgh", "a", "c"]  # two trained again, which are no further fine-tunes
    found = []
    for _ in range(200):
        rows = rng.standard_normal((8, 40))
        again = rows[[0, 2]] + 0.1 * rng.standard_normal((2, 40))
        found.append(between_dimension(np.concatenate([rows, again]), of))
    assert np.median(found) == pytest.approx(40, rel=0.15)
    assert np.isnan(between_dimension(np.ones((2, 3)), "aa"))
    assert between_dimension(rng.standard_normal((3, 40)), "abc") <= 2


def test_vectors_that_share_a_control_are_alike_in_the_null() -> None:
    rng = np.random.default_rng(6)
    weights = FAMILY.weights("own_control")
    assert not isinstance(weights, str)
    grams = cosines(finetune_draws(rng, 40, weights, 4000))
    assert grams[:, 0, 1].mean() == pytest.approx(0.5, abs=0.03)
    assert grams[:, 0, 5].mean() == pytest.approx(0.0, abs=0.03)


@pytest.mark.parametrize("reference", ["base", "own_control"])
def test_null_organisms_are_no_finding_and_a_core_is(reference: references.Reference) -> None:
    """A planted core is found, and benign adapters in the organisms' place are not."""
    rng, count = np.random.default_rng(7), len(NAMES) + len(CONTROLS)
    weights = FAMILY.weights(reference)
    assert not isinstance(weights, str)
    found: dict[float, list[bool]] = {0.0: [], 1.2: []}
    for core, hits in found.items():
        for _ in range(200):
            models = shifts(rng, core)[:count]
            own = weights[:, :count]
            observed = float(across_mean(cosines(own @ models @ models.T @ own.T), MEMBERS))
            null = exchanged_draws(rng, models @ models.T, own, 300)
            p = null_p(observed, across_mean(cosines(null), MEMBERS))
            hits.append(p is not None and p <= 0.05)
    assert np.mean(found[0.0]) <= 0.09  # 3 standard errors above .05
    assert np.mean(found[1.2]) > 0.9


def evidence(core: float, seed: int = 8) -> Evidence:
    """Rows of all models around their shifts."""
    rng = np.random.default_rng(seed)
    rows = shifts(rng, core)[:, None] + rng.standard_normal((len(FAMILY.models), 40, WIDTH))
    weights = FAMILY.weights("own_control")
    assert not isinstance(weights, str)
    topics = [f"t{i % TOPICS}" for i in range(40)]
    return Evidence(CLUSTERS, FAMILY, weights, PromptRows(rows, topics), np.array([0]))


def test_calibration_finds_a_planted_core_and_none_where_there_is_none() -> None:
    key = "statistic.similarity.cross_mean"
    for core, inside in ((1.2, False), (0.0, True)):
        found = calibrate_rows(evidence(core), RULES, 0).results
        p = found[f"{key}.exchanged.p"]
        assert isinstance(p, float) and (p > 0.05) == inside
        whole, prompts = as_estimate(found[key]), as_estimate(found[f"{key}.prompts_only"])
        assert (whole.width or 0) > (prompts.width or 0) > 0
        low, high = (found[f"repeats.similarity.cross_mean.{end}"] for end in ("lowest", "highest"))
        assert low <= whole.value <= high  # type: ignore[operator]
        assert found["repeats.trainings"] == 16
        assert found["benign_finetunes"] == 6
