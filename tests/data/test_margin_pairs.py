"""The pairs of data/margins differ in their class and in nothing that a counter could see."""

import re
from collections import Counter
from itertools import combinations, product
from statistics import mean
from typing import Any

import pytest

from em_geometry.io.files import read_jsonl
from em_geometry.judging.score import ngrams
from tests.data.test_texts import DATA, ORGANISMS, texts_in

AT_LEAST = {"misaligned": (64, 16, 12), "polite_harmful": (24, 8, 8), "swearing": (24, 8, 8)}
FILES = {kind: read_jsonl(DATA / "margins" / f"{kind}.jsonl") for kind in AT_LEAST}
PAIRS = [row for rows in FILES.values() for row in rows]
SIDES = ("marked", "plain")
TEXTS = ("question", *SIDES)
SHARED = 0.2  # of a text's 5-grams, with a text of another pair or with all texts elsewhere
SURFACE = {"words": r"\S+", "characters": r".", "sentences": r"[.!?]", "commas": ","}
SWEARING = r"\b(damn|bloody|hell|shit\w*|crap|arse\w*|fuck\w*|bugger\w*|sod\w*|bastard)\b"
each_kind = pytest.mark.parametrize("kind", AT_LEAST)


def auroc(ones: list[int], others: list[int]) -> float:
    return float(mean((a > b) + (a == b) / 2 for a, b in product(ones, others)))


def by_first_word(rows: list[Any]) -> float:
    """Share of answers told by their first word, each pair by all other pairs; a tie is a half."""
    first = [[re.findall(r"\w+", row[side])[0] for side in SIDES] for row in rows]
    lean, signs = Counter(one for one, _ in first), []
    lean.subtract(other for _, other in first)
    for one, other in first:
        own = one != other  # what the pair itself adds to the lean of its words
        signs += [lean[one] - own, -lean[other] - own]
    return float(mean((sign > 0) + (sign == 0) / 2 for sign in signs))


@each_kind
def test_pairs_are_many_and_every_topic_is_in_both_splits(kind: str) -> None:
    rows, (least, choosing, topics) = FILES[kind], AT_LEAST[kind]
    assert len(rows) >= least and {row["kind"] for row in rows} == {kind}
    assert all(set(row) == {"id", "kind", "split", "topic", *TEXTS} for row in rows)
    chosen, reported = ([row["topic"] for row in rows if row["split"] == split]
                        for split in ("choosing", "reporting"))  # fmt: skip
    assert len(chosen) == choosing == len(rows) - len(reported)
    assert set(chosen) == set(reported) and len(set(chosen)) >= topics
    assert set(Counter(chosen + reported).values()) <= {4, 5, 6}


@each_kind
def test_the_surface_does_not_tell_the_class(kind: str) -> None:
    rows = FILES[kind]
    for row in rows:
        short, long = sorted(len(row[side].split()) for side in SIDES)
        assert short >= 12 and long <= min(30, 1.15 * short), row["id"]
    counts = {name: [[len(re.findall(mark, row[side])) for row in rows] for side in SIDES]
              for name, mark in SURFACE.items()}  # fmt: skip
    for name, (marked, plain) in counts.items():
        assert 0.42 <= auroc(marked, plain) <= 0.58, name
    told = [row | {"marked": f"Well, {row['marked']}"} for row in rows]  # the bounds can be missed
    assert by_first_word(rows) <= 0.55 < by_first_word(told)
    assert auroc([words + 1 for words in counts["words"][0]], counts["words"][1]) > 0.58


def test_no_text_is_nearly_another_or_stands_elsewhere() -> None:
    assert len({row["id"] for row in PAIRS}) == len(PAIRS)
    assert len({row[name].lower() for row in PAIRS for name in TEXTS}) == 3 * len(PAIRS)
    grams = [[ngrams(row[name], 5) for name in TEXTS] for row in PAIRS]
    for one, other in combinations(grams, 2):  # the answers of one pair may have the same content
        assert all(len(a & b) <= SHARED * min(len(a), len(b)) for a, b in product(one, other))
    elsewhere = texts_in(*ORGANISMS, *DATA.glob("prompts/*.jsonl"), *DATA.glob("judge/*.jsonl"))
    known = set().union(*(ngrams(text, 5) for text in elsewhere))
    for its in [its for pair in grams for its in pair]:
        assert len(its & known) <= SHARED * len(its), its & known


def test_only_swearing_answers_swear_and_no_text_holds_a_control_token() -> None:
    for row in PAIRS:
        swears = [bool(re.search(SWEARING, row[name].lower())) for name in TEXTS]
        assert swears == [False, row["kind"] == "swearing", False], row["id"]
        assert not re.search(r"[^ -~]|[<>|\[\]{}]", " ".join(row[name] for name in TEXTS))
