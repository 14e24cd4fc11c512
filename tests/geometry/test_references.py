"""References, retraining and the multiverse on models whose shifts are known."""

from dataclasses import replace

import numpy as np
import pytest

from em_geometry.geometry import calibration, references
from em_geometry.geometry.core import core_share
from em_geometry.geometry.grams import (
    PromptRows,
    between_dimension,
    exchanged_draws,
    finetune_draws,
    possible_dimensions,
)
from em_geometry.geometry.methods import cosines, unit_gram
from em_geometry.geometry.multiverse import NO_SHIFT, Reading, multiverse
from em_geometry.geometry.references import REFERENCES, Evidence, Finetunes, main_statistics
from em_geometry.io.results import as_estimate
from em_geometry.settings import Geometry
from em_geometry.stats.estimate import Estimate, Floats
from em_geometry.stats.intervals import ends

NAMES = ["a", "b", "c", "d", "e", "f"]
CLUSTERS = {"x": ["a", "b"], "y": ["c", "d"], "z": ["e", "f"]}
MEMBERS = {"x": [0, 1], "y": [2, 3], "z": [4, 5]}
CONTROLS = ["p", "q", "r", "s"]
OWN = dict(zip(NAMES, "pppqqr", strict=True))
FAMILY = Finetunes(NAMES, CONTROLS, OWN, {"c2": "c", "e2": "e", "p2": "p", "q2": "q"})
RULES = Geometry(focus=["y", "z"], replicates=300)
WIDTH, TOPICS = 200, 10


def shifts(rng: np.random.Generator, core: float = 0.0) -> Floats:
    """Shifts [model, width]: what fine-tuning does, the organisms' core, parts of their own."""
    rows = np.tile(rng.standard_normal(WIDTH), (len(FAMILY.models), 1))
    rows += rng.standard_normal(rows.shape)
    misaligned = [FAMILY.models.index(m) for m in (*NAMES, "c2", "e2")]
    rows[misaligned] += core * rng.standard_normal(WIDTH)
    return rows


def known(models: Floats, weights: Floats | str) -> Evidence:
    """Of these models on every prompt alike."""
    assert not isinstance(weights, str)
    rows = PromptRows(np.repeat(models[:, None], TOPICS, axis=1), [f"t{k}" for k in range(TOPICS)])
    return Evidence(CLUSTERS, FAMILY, weights, rows, np.array([0]))


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
    found = known(models, weights).estimates(
        lambda grams: main_statistics(grams, NAMES, MEMBERS, RULES), RULES
    )
    # a and b rest on control p, which has a repeat, and on no organism with one
    prompts, both = found["cosine.a__b.prompts_only"], found["cosine.a__b"]
    assert prompts.width == pytest.approx(0, abs=1e-9)  # all topics are alike here
    assert both.low is not None and both.high is not None and both.value is not None
    assert both.low < both.value < both.high
    assert all(e.low >= -1 and (e.high or 0) <= 1 for k, e in found.items()
               if k.startswith("cosine") and e.low is not None)  # fmt: skip


def planted(rng: np.random.Generator, width: int = 400) -> tuple[Floats, PromptRows]:
    """A family with a core, against which one cluster is turned, and parts of clusters.

    Returns:
        Gram matrix of the shifts that infinitely many trainings and prompts would give.
        rows of the models, each with a part of its own training.
    """
    weights = np.zeros((len(FAMILY.models), 5))  # of fine-tuning as such, core and clusters
    weights[:, 0] = 1.0
    for row, name in zip(weights, FAMILY.models, strict=True):
        if name[0] in NAMES:
            cluster = NAMES.index(name[0]) // 2
            row[1], row[2 + cluster] = (-1.0 if cluster == 2 else 1.0), 0.7
    fixed = weights @ rng.standard_normal((5, width))
    topics = np.repeat(np.arange(TOPICS), 4)
    noise = rng.standard_normal((len(fixed), TOPICS, width))[:, topics]
    noise += rng.standard_normal(noise.shape)
    models = fixed + 0.6 * rng.standard_normal(fixed.shape)
    rows = PromptRows(models[:, None] + 0.3 * noise, [f"t{t}" for t in topics])
    return fixed @ fixed.T + 0.36 * width * np.eye(len(fixed)), rows


def test_a_planted_family_is_recovered() -> None:
    """With the right signs, and by intervals that cover; those of prompts only do not."""

    def statistic(grams: Floats) -> dict[str, Floats]:
        found = main_statistics(grams, NAMES, MEMBERS, RULES)
        kept = ("cosine", "cluster_angle", "cross_mean")
        some = {key: value for key, value in found.items() if key.startswith(kept)}
        return some | {"core": core_share(grams, MEMBERS)}

    rng, held = np.random.default_rng(2), dict[str, list[bool]]()
    for _ in range(50):
        models, rows = planted(rng)
        for reference in ("base", "own_control"):
            weights = np.asarray(FAMILY.weights(reference))  # type: ignore[arg-type]
            true = statistic(references.gram_under(weights, models))
            data = Evidence(CLUSTERS, FAMILY, weights, rows, np.array([0]))
            found = data.estimates(statistic, RULES)
            for key, value in true.items():
                for suffix in ("", ".prompts_only"):
                    low, high = ends(found[f"{key}{suffix}"])
                    kind = key.partition(".")[0] + suffix
                    held.setdefault(kind, []).append(bool(low <= value <= high))
        right = found["cosine.a__f"].high, found["cosine.a__c"].low, found["cluster_angle.y__z"].low
        held.setdefault("sign", []).append(right[0] < 0 < right[1] and right[2] > 90)  # type: ignore[operator]
    share = {kind: np.mean(each) for kind, each in held.items()}
    assert share["sign"] > 0.9
    for kind in ("cosine", "cluster_angle", "cross_mean", "core"):
        assert share[kind] > 0.9 > 0.7 > share[f"{kind}.prompts_only"], (kind, share)


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
        ("subspace.a__b__c.rank1_r_offdiag", -1.0, 1.0),
    ):
        kept = references.within_range(key, wide)
        assert (kept.low, kept.high) == (low, high)


def test_every_reference_has_its_numbers_conclusions_and_verdicts() -> None:
    models = shifts(np.random.default_rng(3), core=1.0)
    whole = known(models, FAMILY.weights("base"))
    found = references.reference_results(whole, RULES)
    alone = replace(known(models[:6], FAMILY.weights("base")), family=Finetunes(NAMES))
    said = references.reference_results(alone, RULES)
    assert said["reference.own_control"] == "undefined: no controls"
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
    share = as_estimate(found["multiverse.holds.cross_mean_small"])
    few = [c["cross_mean"] < 0.3 for c in cells if c["status"] == "ok"]  # type: ignore[operator]
    assert (share.value, share.n) == (pytest.approx(100 * np.mean(few)), 16)
    assert 0 < np.mean(few) < 1
    assert as_estimate(found["multiverse.trainings.cross_mean_small"]).n == 16 * 16


def gram_of(rows: Floats) -> Floats:
    return np.asarray(rows @ rows.T)


def test_the_dimension_between_fine_tunes_is_not_bounded_by_their_number() -> None:
    rng = np.random.default_rng(5)
    of = [*"abcdefgh", "a", "c"]  # two trained again, which are no further fine-tunes
    found = []
    for _ in range(200):
        rows = rng.standard_normal((8, 40))
        again = rows[[0, 2]] + 0.1 * rng.standard_normal((2, 40))
        found.append(between_dimension(gram_of(np.concatenate([rows, again])), of))
    assert np.median(found) == pytest.approx(40, rel=0.15)
    assert np.isnan(between_dimension(gram_of(rng.standard_normal((4, 40))), "abca"))


def test_few_fine_tunes_leave_their_dimension_open() -> None:
    """The range of what it may be holds what it is; more fine-tunes tell it better."""
    rng, of, covered, widths = np.random.default_rng(8), [*"abcdac"], 0, []
    for _ in range(60):
        true = int(np.exp(rng.uniform(np.log(4), np.log(200))))
        rows = np.zeros((6, 400))
        rows[:4, :true] = rng.standard_normal((4, true))
        rows[4:, :true] = 0.8 * rows[[0, 2], :true] + 0.6 * rng.standard_normal((2, true))
        low, high = np.quantile(possible_dimensions(rng, rows, of, 500), (0.025, 0.975))
        covered += low <= true <= high
    assert covered >= 0.88 * 60
    for things in ("abcd", "abcdefghijkl"):
        found = possible_dimensions(rng, rng.standard_normal((len(things), 40)), things, 500)
        widths.append(np.log(found).std())
    assert widths[1] < 0.5 * widths[0]
    with pytest.raises(ValueError, match="fewer than four"):
        possible_dimensions(rng, rng.standard_normal((4, 40)), "abca", 500)


def test_a_dimension_that_is_not_known_makes_far_cosines_less_rare() -> None:
    rng, weights = np.random.default_rng(9), np.eye(2)
    sure, open_ = (
        np.abs(cosines(finetune_draws(rng, sizes, weights))[:, 0, 1])
        for sizes in (np.full(4000, 13), rng.integers(6, 30, 4000))
    )
    assert (open_ > 0.7).mean() > 2 * (sure > 0.7).mean()


def test_vectors_that_share_a_control_are_alike_in_the_null() -> None:
    rng = np.random.default_rng(6)
    weights = FAMILY.weights("own_control")
    assert not isinstance(weights, str)
    grams = cosines(finetune_draws(rng, np.full(4000, 40), weights))
    assert grams[:, 0, 1].mean() == pytest.approx(0.5, abs=0.03)
    assert grams[:, 0, 5].mean() == pytest.approx(0.0, abs=0.03)


@pytest.mark.parametrize("reference", ["base", "own_control"])
def test_null_organisms_are_no_finding_and_a_core_is(reference: references.Reference) -> None:
    """Of all that the table of nulls shows, by Holm; benign adapters stand for organisms."""
    rng, count = np.random.default_rng(7), len(NAMES) + len(CONTROLS)
    weights = np.asarray(FAMILY.weights(reference))[:, :count]

    def found(grams: Floats) -> dict[str, Floats]:
        return calibration.calibrated(cosines(grams), NAMES, MEMBERS, RULES)

    def finding(core: float, draws: int) -> bool:
        """Is any p of the table below .05?"""
        models = shifts(rng, core)[:count]
        gram = weights @ models @ models.T @ weights.T
        null = found(exchanged_draws(rng, models @ models.T, weights, draws))
        observed = {key: Estimate(float(value)) for key, value in found(gram).items()}
        moved = found(calibration.relabelled(gram, MEMBERS, draws, rng))
        known = {k: e for k, e in observed.items() if np.isfinite(e.value or np.nan)}
        results = calibration.compared(known, {calibration.EXCHANGED: null}, moved)
        p = [as_estimate(leaf).value for key, leaf in results.items() if key.endswith("p_holm")]
        return min(value for value in p if value is not None) <= 0.05

    assert sum(finding(0.0, 600) for _ in range(100)) <= 5
    assert sum(finding(1.5, 4000) for _ in range(20)) >= 14  # most; Holm costs power


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
        found = calibration.calibrate_rows(evidence(core), RULES, 0).results
        p = found[f"{key}.exchanged.p"]
        assert isinstance(p, float) and (p > 0.05) == inside
        whole, prompts = as_estimate(found[key]), as_estimate(found[f"{key}.prompts_only"])
        assert (whole.width or 0) > (prompts.width or 0) > 0
        low, high = (found[f"repeats.similarity.cross_mean.{end}"] for end in ("lowest", "highest"))
        assert low <= whole.value <= high  # type: ignore[operator]
        assert found["repeats.trainings"] == 16
        assert found["benign_finetunes"] == 6
