"""Vectors drawn again are those that the rows themselves give, and nulls hold what they promise."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest

from em_geometry.errors import UserError
from em_geometry.geometry.gram import cosines
from em_geometry.geometry.samples import AnswerRows, PromptRows
from em_geometry.stats.arrays import Floats
from em_geometry.stats.permutation import null_p

TOPICS = [f"t{i % 8}" for i in range(40)]
ASKED = [f"q{i % 8}" for i in range(80)]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def rows() -> Floats:
    return rng().standard_normal((6, 40, 30)) + 0.3


def answers(
    seed: int = 0, n: int = 2, effect: float = 0.0, confound: float = 0.0, often: float = 0.5
) -> AnswerRows:
    """Ten answers to each of eight questions; the share `often` of those to 0 to 3 is bad.

    Args:
        effect: shift of misaligned answers, the same direction in all organisms.
        confound: shift of all answers to questions 0 to 3.
    """
    random = rng(seed)
    parts, labels = [], []
    for _ in range(n):
        first = np.array([int(q[1]) < 4 for q in ASKED])
        bad = random.random(len(ASKED)) < np.where(first, often, 1 - often)
        noise = random.standard_normal((len(ASKED), 12))
        noise[:, 0] += effect * bad
        noise[:, 1] += confound * first
        parts.append(noise)
        labels.append(bad)
    return AnswerRows(parts, labels, [ASKED] * n)


def by_hand(sample: PromptRows | AnswerRows, weights: Floats) -> Floats:
    """Vectors from the rows themselves, each counted so often."""
    if isinstance(sample, PromptRows):
        return np.average(rows(), axis=1, weights=weights)
    found = []
    for rows_of, bad in zip(sample.answers, sample.misaligned, strict=True):
        means = [np.average(rows_of[m], axis=0, weights=weights[m]) for m in (bad, ~bad)]
        found.append(means[0] - means[1])
    return np.array(found)


@pytest.mark.parametrize(
    ("sample", "asked"),
    [(PromptRows(rows(), TOPICS), TOPICS), (answers(n=3, effect=1.0), ASKED)],
    ids=["prompts", "answers"],
)
def test_bootstrap_and_halves_are_those_of_the_vectors_themselves(
    sample: PromptRows | AnswerRows, asked: list[str]
) -> None:
    group = np.array([int(name[1]) for name in asked])
    assert sample.vectors == pytest.approx(by_hand(sample, np.ones(len(asked))))
    drawn = rng(3).multinomial(8, np.full(8, 1 / 8), 5)
    for b, found in enumerate(sample.bootstrap(rng(3), 5)):
        vectors = by_hand(sample, drawn[b][group].astype(float))
        assert found == pytest.approx(vectors @ vectors.T, abs=1e-9)
    order = rng(5).permuted(np.tile(np.arange(8), (3, 1)), axis=1)
    split, agreement = sample.halves(rng(5), 3)
    for b in range(3):
        first = (order[b][group] < 4).astype(float)
        one, two = by_hand(sample, first), by_hand(sample, 1 - first)
        assert split[0, b] == pytest.approx(one @ one.T, abs=1e-9)
        assert split[1, b] == pytest.approx(two @ two.T, abs=1e-9)
        expected = (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)
        assert agreement[b] == pytest.approx(expected)


def test_flips_of_prompts_are_those_of_the_vectors_themselves() -> None:
    signs = rng(4).choice([-1.0, 1.0], (3, 6, 8))
    for b, found in enumerate(PromptRows(rows(), TOPICS).without_effect(rng(4), 3)):
        each = signs[b][:, [int(t[1]) for t in TOPICS]]
        vectors = (each[..., None] * rows()).mean(1)
        assert found == pytest.approx(vectors @ vectors.T, abs=1e-9)


def test_labels_are_shuffled_within_questions_and_every_way_is_as_likely() -> None:
    values = np.array([[1.0], [2.0], [4.0], [8.0]])
    bad, asked = np.array([True, False, False, True]), ["a", "b", "a", "b"]
    found = AnswerRows([values], [bad], [asked]).without_effect(rng(), 4000)[:, 0, 0]
    lengths = Counter(np.round(found**0.5, 6).tolist())
    ways = [abs((x + y) - (5 - x) - (10 - y)) / 2 for x, y in product((1, 4), (2, 8))]
    expected = Counter(np.round(ways, 6).tolist())
    assert set(lengths) == set(expected)
    for length, count in expected.items():
        assert lengths[length] / 4000 == pytest.approx(count / 4, abs=0.04)


def test_no_label_leaves_its_question() -> None:
    """Answers that differ by question only: no shuffle within questions changes the vector."""
    sample = answers()
    plain = np.eye(8)[[int(q[1]) for q in ASKED]]
    same = AnswerRows([plain, plain], sample.misaligned, sample.question)
    observed = same.vectors @ same.vectors.T
    for found in same.without_effect(rng(), 20):
        assert found == pytest.approx(observed, abs=1e-9)


def p_of(sample: AnswerRows, seed: int = 7) -> float:
    null = cosines(sample.without_effect(rng(seed), 400))[:, 0, 1]
    vectors = sample.vectors
    return null_p(float(cosines((vectors @ vectors.T)[None])[0, 0, 1]), null)


def test_a_shared_effect_is_seen_and_shared_questions_are_not_taken_for_one() -> None:
    assert p_of(answers(effect=2.0)) < 0.01
    confounded = [p_of(answers(seed, confound=3.0, often=0.8)) for seed in range(60)]
    assert np.mean(np.array(confounded) < 0.1) < 0.25
    assert np.mean(confounded) == pytest.approx(0.5, abs=0.13)


def test_no_draw_loses_all_answers_of_a_label() -> None:
    sample = answers(n=2)
    few = np.array([int(q[1]) < 4 and i < 8 for i, q in enumerate(ASKED)])
    sample = AnswerRows(sample.answers, [few, sample.misaligned[1]], sample.question)
    assert sample.questions_of_fewest == 4
    assert np.isfinite(sample.bootstrap(rng(), 300)).all()
    split, agreement = sample.halves(rng(), 300)
    assert split.shape == (2, 300, 2, 2)
    assert np.isfinite(split).all() and np.isfinite(agreement).all()
    single = AnswerRows(sample.answers, [few & (np.arange(80) == 0), few], sample.question)
    with pytest.raises(UserError, match="too few to draw the questions again"):
        single.halves(rng(), 2)


def test_residuals_lie_around_the_mean_of_their_own_label() -> None:
    sample = answers(effect=5.0)
    assert sample.residuals.shape == (160, 12)
    assert sample.residuals.mean(0) == pytest.approx(0, abs=1e-9)
    assert sample.residuals[:, 0].std() == pytest.approx(1, abs=0.15)
