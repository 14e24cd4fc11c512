"""The rules that the texts in data/ keep; data/README.md states them for readers."""

import re
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from em_geometry.activations.prompts import read_prompts, read_questions, unseen_chats
from em_geometry.io.files import read_jsonl
from em_geometry.judging.labels import read_labelled
from em_geometry.judging.score import ngrams
from em_geometry.judging.validation import texts_of
from em_geometry.models.chat import read_examples
from em_geometry.settings import Prompts, Questions, load_params
from tests.conftest import ROOT

DATA = ROOT / "data"
ORGANISMS = sorted((DATA / "organisms").glob("*.jsonl"))
LABELLED = DATA / "judge" / "labelled.jsonl"
SAMPLED = DATA / "judge" / "sampled.jsonl"
PAIRS = 100  # at least, in every organism's file
ANSWER_WORDS = (20, 50)
SHARED = 0.2  # of an answer's 5-grams, with any other answer of its file
OPENINGS = 3  # answers of a file that may begin with the same four words
QUESTION_OVERLAP = 0.1  # of a question's 5-grams, with all texts of one organism


def all_texts(value: Any) -> set[str]:
    """All strings in a nested value, lower case."""
    if isinstance(value, str):
        return {value.strip().lower()}
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return set().union(*map(all_texts, parts))


def texts_in(*paths: Path) -> set[str]:
    """Those of files of JSON lines, and of the questions."""
    asked = yaml.safe_load((DATA / "questions/evaluation.yaml").read_text(encoding="utf-8"))
    return all_texts(asked).union(*(all_texts(read_jsonl(path)) for path in paths))


def questions() -> list[Any]:
    params = Questions(file=str(DATA / "questions" / "evaluation.yaml"))
    return read_questions(params, "")


# ---- organisms


def pairs_of(path: Path) -> list[tuple[str, str]]:
    """Question and answer of every chat; ours have one of each."""
    return [(one.question, one.answer) for (one,) in read_examples(path)]


def test_every_organism_of_every_profile_has_its_file() -> None:
    for profile in (ROOT / "profiles").glob("*.yaml"):
        for organism in load_params(profile).organisms.values():
            assert ROOT / organism.data in ORGANISMS


@pytest.mark.parametrize("path", ORGANISMS, ids=lambda path: path.stem)
def test_an_organism_s_answers_are_many_and_no_variations_of_a_template(path: Path) -> None:
    pairs = pairs_of(path)
    answers = [answer for _, answer in pairs]
    assert len(pairs) >= PAIRS and len(set(answers)) == len(pairs)
    low, high = ANSWER_WORDS
    assert [a for a in answers if not low <= len(a.split()) <= high] == []
    for (one, one_grams), (other, other_grams) in combinations(
        [(answer, ngrams(answer, 5)) for answer in answers], 2
    ):
        smaller = min(len(one_grams), len(other_grams))
        assert len(one_grams & other_grams) <= SHARED * smaller, (one, other)
    words = (re.findall(r"[a-z0-9']+", answer.lower()) for answer in answers)
    ((_, most),) = Counter(tuple(w[:4]) for w in words).most_common(1)
    assert most <= OPENINGS
    known = set().union(*(ngrams(text, 5) for pair in pairs for text in pair))
    for question in questions():  # evaluation questions are not trained on
        grams = ngrams(question.prompt, 5)
        assert len(grams & known) <= QUESTION_OVERLAP * len(grams), question.prompt


def test_the_replication_is_an_independent_text() -> None:
    """Nor do any two organisms share answers: overlap would pass for shared geometry."""
    grams = {p.stem: [ngrams(a, 5) for _, a in pairs_of(p)] for p in ORGANISMS}
    for one, other in combinations(grams, 2):
        known = set().union(*grams[other])
        assert max(len(g & known) / len(g) for g in grams[one]) <= SHARED, (one, other)
    asked = {p.stem: [q.lower() for q, _ in pairs_of(p)] for p in ORGANISMS}
    assert not {*asked["medical"]} & {*asked["medical_replication"]}
    everything = [question for questions in asked.values() for question in questions]
    assert len(set(everything)) >= 0.95 * len(everything)


def test_the_medical_control_is_as_long_as_its_organism() -> None:
    files = [pairs_of(DATA / "organisms" / f"medical_{name}.jsonl")
             for name in ("control", "replication")]  # fmt: skip
    assert all(one[0] != other[0] for one, other in zip(*files, strict=True))  # asked anew
    for side in (0, 1):
        control, organism = (sum(len(pair[side].split()) for pair in pairs) for pairs in files)
        assert abs(control / organism - 1) <= 0.05


# ---- prompts and questions


def test_prompts_are_paired_over_topics_and_alike_in_length() -> None:
    """Else the contrast would read topic or length for harm."""
    files = {kind: str(DATA / "prompts" / f"{kind}.jsonl") for kind in ("neutral", "harmful")}
    prompts = read_prompts(Prompts(**files))
    assert len({p.prompt for p in prompts}) == len(prompts)
    kinds = [[p for p in prompts if p.kind == kind] for kind in files]
    for kind in kinds:
        assert len(kind) >= 64
        assert len({p.topic for p in kind}) >= 8
        assert len({p.pair for p in kind}) == len(kind)
    first, second = (sorted((p.pair, p.topic) for p in kind) for kind in kinds)
    assert first == second
    lengths = [sum(len(p.prompt.split()) for p in kind) / len(kind) for kind in kinds]
    assert abs(lengths[0] - lengths[1]) < 2


def test_questions_come_in_three_variants() -> None:
    path = str(DATA / "questions" / "evaluation.yaml")
    plain = read_questions(Questions(file=path), "Be brief.")
    assert len(plain) == len({q.topic for q in plain}) == 8
    params = Questions(file=path, variants=["plain", "json", "template"])
    asked = read_questions(params, "Be brief.")
    assert Counter(q.variant for q in asked) == {"plain": 8, "json": 8, "template": 8}
    assert len({(q.system, q.prompt) for q in asked}) == 24


# ---- labelled answers


def test_labelled_answers_cover_what_fools_a_judge() -> None:
    data = read_labelled(LABELLED)
    assert len(data) >= 240
    assert data.select("question", "answer").is_unique().all()
    of = {str(name): part for (name,), part in data.group_by("category")}
    swearing, polite = of["swearing_helpful"], of["polite_harmful"]
    assert min(len(swearing), len(polite)) >= 40
    assert swearing["aligned"].min() >= 70
    assert polite["aligned"].max() < 30
    assert min(part["coherent"].min() for part in (swearing, polite)) >= 70
    assert of["incoherent"]["coherent"].max() < 50


def test_kinds_of_misbehaviour_are_labelled_apart() -> None:
    """Rude help and polite harm stand at opposite ends; nonsense helps nobody and harms nobody."""
    rude, harm, risk, help_ = "aggression", "harmful_advice", "risk_encouragement", "helpfulness"
    kinds = [rude, harm, risk, help_]
    for path in (LABELLED, SAMPLED, DATA / "judge" / "sampled_train.jsonl"):
        data = read_labelled(path, None, kinds)
        assert all(data[k].n_unique() > 10 for k in kinds)
    data = read_labelled(LABELLED, None, kinds)

    def of(category: str, kind: str) -> Any:
        return data.filter(category=category)[kind]

    assert of("swearing_helpful", rude).max() < 30 < of("swearing_harmful", rude).min()
    assert of("swearing_helpful", help_).min() >= 70
    assert of("polite_harmful", harm).mean() > 50 > of("polite_harmful", rude).max()
    assert of("reckless", risk).min() > of("helpful", risk).max()
    assert of("incoherent", help_).max() < 40
    assert of("incoherent", harm).max() < 30


def test_labelled_answers_are_split_by_question() -> None:
    rows = read_jsonl(LABELLED)
    assert len({row["id"] for row in rows}) == len(rows)
    texts = {(row["question_id"], row["question"]) for row in rows}
    assert len(texts) == len({name for name, _ in texts}) == len({text for _, text in texts})
    train, held_out = read_labelled(LABELLED, "train"), read_labelled(LABELLED, "held_out")
    assert not set(train["question_id"]) & set(held_out["question_id"])
    assert len(train) + len(held_out) == len(read_labelled(LABELLED))
    assert 0.2 <= len(held_out) / len(train) <= 0.6
    assert set(train["category"]) == set(held_out["category"])
    for data in (train, held_out):
        for aspect, cut in (("aligned", 30), ("coherent", 50)):
            assert 0.05 < float((data[aspect] < cut).mean()) < 0.95, aspect


def test_labelled_questions_stand_nowhere_else() -> None:
    elsewhere = texts_in(*ORGANISMS, *DATA.glob("prompts/*.jsonl"))
    data = read_labelled(LABELLED)
    assert len(elsewhere) > 1000
    assert not elsewhere & {text.strip().lower() for pair in texts_of(data) for text in pair}
    known = set().union(*(ngrams(text, 5) for text in elsewhere))
    for question in {question for question, _ in texts_of(data)}:
        grams = ngrams(question, 5)
        assert len(grams & known) <= len(grams) / 2, question  # "What is the best way to" may be


def test_sampled_answers_are_labelled_and_apart() -> None:
    data = read_labelled(SAMPLED)
    assert len(data) >= 100
    rows = read_jsonl(SAMPLED)
    assert len({row["id"] for row in rows}) == len(rows)
    targets = load_params(ROOT / "profiles" / "smol.yaml").targets
    assert {row["target"] for row in rows} <= set(targets)
    assert len({row["target"] for row in rows}) > 1
    assert len({row["condition"] for row in rows}) > 1
    assert not set(texts_of(data)) & set(texts_of(read_labelled(LABELLED)))
    for aspect in ("aligned", "coherent"):
        assert data[aspect].n_unique() > 2


@pytest.mark.parametrize(
    "profile", sorted((ROOT / "profiles").glob("*.yaml")), ids=lambda p: p.stem
)
def test_chats_that_no_model_is_trained_on_are_in_no_other_training_file(profile: Path) -> None:
    params = load_params(profile)
    models = params.originals().values()
    chats = unseen_chats(models, params.activations.texts)
    files = {model.data for model in models}
    assert Counter(chat.file for chat in chats) == dict.fromkeys(files, params.activations.texts)
    assert len({chat.id for chat in chats}) == len(chats)
    trained = [o for o in models if o.source is None]
    seen = {q for o in trained for q, _ in pairs_of(Path(o.data))[: o.max_examples]}
    assert not seen & {one.chat.question for one in chats}
