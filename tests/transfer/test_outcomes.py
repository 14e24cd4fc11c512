"""What margins say, on invented tables in which effects were planted."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from em_geometry.io.results import as_estimate, flatten
from em_geometry.stats.estimate import Estimate
from em_geometry.stats.retraining import total_distance
from em_geometry.steering.pairs import COLUMNS, KINDS
from em_geometry.transfer.outcomes import Margins, Who, outcomes

ORGANISMS = ("finance", "sports", "profanity")
WHO = Who(
    organisms=ORGANISMS,
    controls=("control",),
    steered=("base", *ORGANISMS),
    control_of=dict.fromkeys(ORGANISMS, "control"),
    repeats={"finance_b": "finance", "control_b": "control"},
    labs={"one": ["finance", "sports"], "two": ["profanity"]},
    clusters={"risk": ["finance", "sports"], "persona": ["profanity"]},
)
TARGETS = (*WHO.steered, "control", *WHO.repeats)
PAIRS = {kind: [f"{kind}{i}" for i in range(24 if kind == "misaligned" else 8)] for kind in KINDS}
# margins of models left alone, by target; what repeats add is half of what the organism does
REST = {"base": 0.0, "finance": 0.4, "sports": 0.3, "profanity": 0.2, "control": -0.1}
REST |= {"finance_b": 0.5, "control_b": -0.06}
# gain of a vector on a target, beyond what a random direction does (0.1)
EFFECT = {"base": 0.5, "finance": 0.6, "sports": 0.3, "profanity": 0.15}
CHANCE, RETRAINED = 0.1, {"finance@finance_b": 0.06, "sports@control_b": 0.02}
DIRECTIONS, FEW, NORM = 32, 4, (2, 3.0)  # random ones on the base, and on other targets
Table = Callable[..., pl.DataFrame]


def planted(source: str, target: str) -> float:
    """Vectors of the first laboratory act twice as much on the second one's model as back."""
    return EFFECT[target] * (2.0 if source != "profanity" and target == "profanity" else 1.0)


def invented(noise: float = 0.0, seed: int = 0, null: str = "", few: int = 24) -> pl.DataFrame:
    """The table that the stage writes.

    Args:
        noise: sd over pairs of what each vector or training does, beside its mean.
        null: a vector that does what a random direction does.
        few: misaligned pairs that steered targets but the base read.
    """
    rng = np.random.default_rng(seed)
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    spread = 4 * noise * rng.standard_normal((len(KINDS), 24))  # of the pairs, in all models

    def read(target: str, way: str, source: str, multiple: float, gain: float, some: int) -> None:
        norm = NORM if source else (-1, 0.0)
        for kind in KINDS if some > 24 else KINDS[:1]:
            pairs = PAIRS[kind][:some]
            margin = own[kind][: len(pairs)] + gain
            if source:
                margin = margin + noise * rng.standard_normal(len(pairs))
            level = -3.2 if source else -3.0
            values = (target, source or "none", way, multiple, *norm, pairs, kind,
                      level + margin / 2, level - margin / 2)  # fmt: skip
            for name, value in zip(COLUMNS, values, strict=True):
                one = isinstance(value, str | float | int)
                columns[name] += [value] * len(pairs) if one else list(value)

    for target in TARGETS:
        more = noise * rng.standard_normal((len(KINDS), 24))
        own = {kind: REST[target] + spread[k] + more[k] for k, kind in enumerate(KINDS)}
        read(target, "unsteered", "", 0.0, 0.0, 99)
        some = 99 if target == "base" else few
        for source in ORGANISMS if target in WHO.steered else ():
            gain = 0.0 if source == null else planted(source, target)
            if source == null:
                gain += 0.05 * rng.standard_normal()
            read(target, "vector", source, 1.0, CHANCE + gain, some)
        if target in WHO.steered:
            for k in range(0 if target == "base" else DIRECTIONS - FEW, DIRECTIONS):
                away = 0.05 * rng.standard_normal() if noise else 0.01 * (k % 2 - 0.5)
                read(target, "random", f"random_{k}", 1.0, CHANCE + away, some)
        if target == "base":
            read(target, "benign", "control", 1.0, CHANCE, 99)
            read(target, "vector", "finance", -0.5, -0.2, few)
            for source, away in RETRAINED.items():
                gain = planted(source.partition("@")[0], "base") + away
                read(target, "retrained", source, 1.0, CHANCE + gain, 24)
        elif target in ORGANISMS:
            read(target, "ablation", target, 1.0, -0.05, few)
            read(target, "ablation_everywhere", target, 1.0, -0.25, few)
            if target == "finance":
                read(target, "orthogonalised", "profanity", 1.0, CHANCE + 0.35, few)
    return pl.DataFrame(columns)


def found(frame: pl.DataFrame, who: Who = WHO) -> dict[str, Estimate]:
    every = dict(flatten(outcomes(Margins.of(frame), who, 0.05)))
    return {key: as_estimate(leaf) for key, leaf in every.items()}


def test_what_was_planted_is_found() -> None:
    rows = found(invented())
    expected = {
        "organism.finance.misaligned": 0.5,
        "organism.profanity.swearing": 0.3,
        "repeat.finance_b.misaligned": 0.6,
        "control.control.misaligned": -0.1,
        "unsteered.finance.polite_harmful": 0.4,
        "vector.finance.beyond_random": 0.5,
        "vector.finance.swearing": 0.5,
        "vector.control.beyond_random": 0.0,
        "vector.finance.random_95": 0.005,
        "vector.finance.damage": 0.2,
        "transfer.finance__finance": 0.6,
        "transfer.finance__profanity": 0.3,
        "transfer.profanity__sports": 0.3,
        "transfer.all_organisms": (2 * 0.6 + 2 * 0.3 + 2 * 0.3) / 6,
        "transfer.all_aligned": 0.5,
        "dose.finance.1": 0.6,
        "dose.finance.-0_5": -0.2,
        "orthogonalised.profanity__finance": 0.35,
        "ablation.sports.one": -0.05,
        "ablation.sports.all": -0.25,
        "e1.finance__profanity": 50.0,
        "e1.profanity__finance": 400.0,
        "e1.sports__base": 100 * 0.5 / 0.3,
        "asymmetry.lab.one__two.there": 0.3,
        "asymmetry.lab.one__two.back": 0.45,
        "asymmetry.cluster.risk__persona": -0.15,
        "asymmetry.lab.one__two.e1_there": 100 * 0.3 / 0.45,
        "asymmetry.lab.one__two.e1_ratio": (0.45 / 0.15) / (0.3 / 0.45),
    }
    assert {key: rows[key].value for key in expected} == pytest.approx(expected, abs=1e-9)
    assert [rows[f"vector.{s}.steers"].status for s in ("finance", "control")] == [
        "yes",
        "no effect",
    ]
    assert rows["asymmetry.lab.one__two.smallest_p"].value == pytest.approx(1 / 3)


def test_intervals_hold_retraining() -> None:
    """Without noise over pairs, half the squared changes are all that is left."""
    rows = found(invented())
    whole, prompts = (rows[f"organism.sports.misaligned{e}"] for e in ("", ".prompts_only"))
    assert prompts.width == pytest.approx(0, abs=1e-9)
    changes = [(0.1**2 / 2, 1.0), (0.04**2 / 2, 1.0)]  # of the organism and of the control
    assert whole.width == pytest.approx(2 * total_distance(changes))
    steered = rows["vector.profanity.beyond_random"]
    changes, apart = [(0.06**2 / 2, 1.0), (0.02**2 / 2, 1.0)], 0.005**2 * DIRECTIONS / 31
    drawn = [[*changes, (apart / k, float(DIRECTIONS))] for k in (DIRECTIONS, FEW)]
    assert steered.width == pytest.approx(2 * total_distance(drawn[0]))
    known = rows["transfer.median_half_width"].value
    assert known == pytest.approx(total_distance(drawn[1]))
    organism, control = changes  # three organisms, all with the one control
    mean = [(organism[0] / 3, 1.0), control, (apart / FEW, float(DIRECTIONS))]
    assert rows["transfer.all_organisms"].width == pytest.approx(2 * total_distance(mean))
    once = found(invented().filter(~pl.col("way").eq("retrained")), replace(WHO, repeats={}))
    assert once["organism.sports.misaligned"].width == pytest.approx(0, abs=1e-9)


def test_e1_is_beyond_the_same_directions_on_both_sides() -> None:
    """Those of the base that no other target has do not move it."""
    frame, first = invented(), [f"random_{k}" for k in range(DIRECTIONS - FEW)]
    of_base = pl.col("target").eq("base") & pl.col("source").is_in(first)
    moved = frame.with_columns(pl.when(of_base).then(pl.col("marked") + 1).otherwise("marked"))
    (before, after), key = map(found, (frame, moved)), "finance__base"
    assert after[f"e1.{key}"].value == pytest.approx(before[f"e1.{key}"].value)
    lost = (before[f"transfer.{key}"].value or 0) - (after[f"transfer.{key}"].value or 0)
    assert lost == pytest.approx((DIRECTIONS - FEW) / DIRECTIONS)


def test_intervals_cover_planted_effects() -> None:
    truth = {
        "organism.finance.misaligned.prompts_only": 0.5,
        "vector.sports.beyond_random.prompts_only": 0.5,
        "transfer.finance__profanity": 0.3,
        "transfer.all_organisms": 0.4,
        "e1.finance__sports": 50.0,
        "asymmetry.lab.one__two": -0.15,
        "ablation.finance.all": -0.25,
    }
    held = dict.fromkeys(truth, 0)
    who = replace(WHO, repeats={})
    for seed in range(RUNS := 100):
        frame = invented(0.15, seed, few=16).filter(pl.col("way") != "retrained")
        rows = found(frame, who)
        for key, true in truth.items():
            low, high = rows[key].low, rows[key].high
            assert low is not None and high is not None
            # the mean of the random directions, 4 draws of sd .05, is off by .025
            held[key] += low <= true <= high
            assert np.sign(rows[key].value or 0) == np.sign(true)
    assert min(held.values()) >= 0.88 * RUNS


def test_the_random_directions_behind_a_gain_are_read_on_its_own_pairs() -> None:
    """A benign source reads fewer pairs than they do, of which a few are moved far more."""
    frame = invented()
    few, moved = PAIRS["misaligned"][:8], pl.col("pair").is_in(PAIRS["misaligned"][8:])
    odd = pl.col("source").is_in([f"random_{k}" for k in range(0, DIRECTIONS, 4)])
    frame = frame.with_columns(
        marked=pl.col("marked") + pl.when(moved & odd).then(0.4).otherwise(0)
    )
    frame = frame.filter((pl.col("way") != "benign") | pl.col("pair").is_in(few))
    rows = found(frame)
    assert rows["vector.control.random_95"].value == pytest.approx(0.005, abs=1e-3)
    assert (rows["vector.finance.random_95"].value or 0) > 0.1


def test_a_null_vector_is_no_finding() -> None:
    """It does what one more random direction does: inside their 95 % point in 95 of 100."""
    steers, inside, who = 0, 0, replace(WHO, repeats={})
    for seed in range(RUNS := 100):
        frame = invented(0.15, seed, null="sports", few=8)
        rows = found(frame.filter(pl.col("way") != "retrained"), who)
        beyond, farthest = (rows[f"vector.sports.{k}"] for k in ("beyond_random", "random_95"))
        steers += rows["vector.sports.steers"].status == "yes"
        inside += beyond.low is not None and beyond.low <= (farthest.value or 0.0)
        assert rows["vector.finance.steers"].status == "yes"
        assert abs(beyond.value or 0.0) < 0.25
    assert steers <= 0.05 * RUNS
    assert inside >= 0.95 * RUNS


def test_beside_a_null_stands_what_would_show() -> None:
    rows = found(invented(0.15))
    null = rows["vector.control.beyond_random"]
    assert (null.low or 0) < 0 < (null.high or 0)
    shown = rows["vector.control.beyond_random.detectable"].value
    assert shown is not None and (null.width or 0) / 2 < shown < 2 * (null.width or 0)
    assert "vector.finance.beyond_random.prompts_only" in rows


def test_what_cannot_be_said_has_a_reason() -> None:
    no_control = "undefined: no control of recipe two"
    who = replace(WHO, control_of={**WHO.control_of, "profanity": no_control})
    rows = found(invented(0.15, null="sports"), who)
    assert rows["organism.profanity.misaligned"].status == no_control
    assert rows["e1.sports__finance"].status.startswith("undefined: denominator")
    assert rows["e1.finance__sports"].status == "ok"


def test_p_values_are_adjusted_together() -> None:
    rows = found(invented(0.15))
    p = {key: e.value or 0 for key, e in rows.items() if key.startswith("transfer.")}
    plain = [p[k] for k in p if k.endswith(".p")]
    adjusted = [p[k] for k in p if k.endswith(".p_holm")]
    assert len(plain) == len(adjusted) == 12
    assert all(a >= b for a, b in zip(adjusted, plain, strict=True))
    assert min(adjusted) == pytest.approx(12 * min(plain))
