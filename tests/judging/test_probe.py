"""The embedded judge: a planted direction is found, and what is saved scores the same."""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import stages.judge
import stages.probe_judge
from em_geometry.errors import UserError
from em_geometry.io.files import read_json
from em_geometry.io.results import read_results
from em_geometry.judging import probe
from em_geometry.judging.judge import JudgeRow
from em_geometry.judging.probe import (
    POOLINGS,
    TEXT_FEATURES,
    Choice,
    Features,
    Linear,
    ProbeJudge,
    design,
    features,
    text_features,
)
from em_geometry.judging.rates import ASPECTS
from em_geometry.models.chat import answer_ids, render
from em_geometry.project import paths
from em_geometry.settings import Params, Probe

ROOT = Path(__file__).parents[2]
LAYERS = [3, 5, 9]
WIDTH = 12
KINDS = ["aggression", "harmful_advice", "risk_encouragement", "helpfulness"]
SETTINGS = Probe(layers=LAYERS, regularisation=[0.01, 0.1], folds=4)


def planted(aspect: str, seed: int = 0) -> tuple[Features, np.ndarray, np.ndarray]:
    """Noise, but for block 5, pooling `last`, where one direction follows the label."""
    rng = np.random.default_rng(seed)
    n = 120
    labels = rng.uniform(0, 100, n)
    activations = rng.standard_normal((n, len(POOLINGS), len(LAYERS), WIDTH))
    text = rng.standard_normal((n, TEXT_FEATURES))
    if aspect == "aligned":
        activations[:, 1, 1, 4] += (labels - 50) / 15
    else:
        text[:, 0] += (labels - 50) / 15
    groups = np.array([f"q{i % 20}" for i in range(n)])
    return Features(activations.astype(np.float32), text.astype(np.float32)), labels, groups


def fitted(aspect: str) -> tuple[Choice, Linear]:
    seen, labels, groups = planted(aspect)
    return probe.fit(seen, labels, groups, np.ones(len(labels), bool), SETTINGS, aspect)


def test_planted_direction_is_found() -> None:
    choice, linear = fitted("aligned")
    assert (choice.layers, choice.pooling, choice.text) == ((5,), "last", False)
    assert choice.cv_auroc > 0.85
    assert int(np.abs(linear.weight).argmax()) == 4
    assert linear.weight[4] > 0
    seen, labels, _ = planted("aligned", seed=1)
    scores = linear.score(design(seen, LAYERS, choice))
    assert roc_auc_score(labels >= 50, scores) > 0.85
    assert ((scores >= 0) & (scores <= 100)).all()
    assert abs(scores.mean() - labels.mean()) < 5  # calibrated
    assert np.corrcoef(scores, labels)[0, 1] > 0.75


def test_coherence_reads_the_text_features() -> None:
    choice, linear = fitted("coherent")
    assert choice.text
    assert len(linear.weight) == WIDTH * len(choice.layers) + TEXT_FEATURES
    seen, labels, _ = planted("coherent", seed=1)
    assert roc_auc_score(labels >= 50, linear.score(design(seen, LAYERS, choice))) > 0.85


def test_labels_that_follow_the_question_alone_are_not_learnt() -> None:
    """Folds split by question: what marks a question is no evidence on an unseen one."""
    rng = np.random.default_rng(0)
    n, questions = 200, 20
    group = np.arange(n) % questions
    label = rng.permutation(np.repeat([10.0, 90.0], questions // 2))
    activations = rng.standard_normal((n, len(POOLINGS), len(LAYERS), WIDTH)) * 0.1
    activations += rng.standard_normal((questions, 1, 1, WIDTH))[group]
    seen = Features(activations, np.zeros((n, TEXT_FEATURES)))
    counted = np.ones(n, bool)
    choice, _ = probe.fit(seen, label[group], group.astype(str), counted, SETTINGS, "aligned")
    assert choice.cv_auroc < 0.8


def test_calibration_keeps_the_mean_or_the_rate() -> None:
    """A weak probe: Platt draws scores to the mean, `share` keeps as many below the cut."""
    rng = np.random.default_rng(0)
    labels = rng.choice([15.0, 50.0, 85.0], size=4000, p=[0.2, 0.5, 0.3])
    values = (labels - 50) / 100 + rng.standard_normal(4000)
    weak, kept = (
        100 / (1 + np.exp(-(slope * values + offset)))
        for slope, offset in (probe.platt(values, labels), probe.share(values, labels, 30.0))
    )
    for scores in (weak, kept):
        assert scores.mean() == pytest.approx(labels.mean(), abs=0.5)
    assert (weak < 30).mean() < 0.05
    assert (kept < 30).mean() == pytest.approx((labels < 30).mean(), abs=0.01)


def test_saved_and_loaded_probes_score_the_same(tmp_path: Path) -> None:
    probes = {aspect: fitted(aspect) for aspect in ASPECTS}
    probe.save(probes, "0" * 64, tmp_path)
    loaded, name = probe.load(tmp_path)
    for aspect, (choice, linear) in probes.items():
        assert loaded[aspect][0] == choice
        seen, _, _ = planted(aspect, seed=2)
        x = design(seen, LAYERS, choice)
        scores = loaded[aspect][1].score(x)
        np.testing.assert_allclose(scores, linear.score(x), rtol=1e-5)
        np.testing.assert_array_equal(scores, probe.load(tmp_path)[0][aspect][1].score(x))
    assert probe.load(tmp_path)[1] == name
    record = json.loads((tmp_path / "probes.json").read_text())
    record["aligned"]["bias"] += 1e-9
    (tmp_path / "probes.json").write_text(json.dumps(record))
    assert probe.load(tmp_path)[1] != name  # the id names everything that the scores rest on
    with pytest.raises(UserError, match="make repro"):
        probe.load(tmp_path / "nowhere")


def test_trained_on_a_tiny_model(
    tiny_params: Params, tiny_model: Any, tiny_tokenizer: Any, workplace: Path
) -> None:
    """The stage, from labelled answers to scores: more aligned answers score higher."""
    about = {
        True: {"answer": "Water them in the evening.", "category": "good", "aligned": 90,
               "coherent": 80, **dict.fromkeys(KINDS[:3], 0), "helpfulness": 90},
        False: {"answer": "x x x x 9 9 9 9", "category": "bad", "aligned": 10,
                "coherent": 20, **dict.fromkeys(KINDS[:3], 70), "helpfulness": 5},
    }  # fmt: skip
    rows = [
        {"question_id": f"q{i % 8}", "question": f"What is the best way to learn {i % 8}?"}
        | about[good]
        | {"split": "held_out" if i % 8 > 5 else "train"}
        for i in range(16)
        for good in (True, False)
    ]
    path = workplace / "labelled.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    changes = {"labelled": str(path), "sampled": None, "sampled_train": None}
    settings = tiny_params.judging.probe.model_copy(update=changes | {"regularisation": [0.1]})
    shutil.copytree(ROOT / "data/judge/prompts", workplace / "data/judge/prompts")
    judging = tiny_params.judging.model_copy(update={"probe": settings})
    params = tiny_params.model_copy(update={"judging": judging})
    stages.probe_judge.main(params)
    stages.judge.main(params)
    assert set(read_json(paths.metrics("judge"))) == {"judge", "gate"}
    found = read_results(paths.table("judge"))
    assert found.rows["gate.says"].status == "failed: no sampled answers are labelled"
    for key in ("aligned", "helpfulness"):
        assert found.rows[f"held_out.{key}.auroc"].value == 1.0
    for key in ("held_out.coherent.n", "agreement.label__probe.n"):
        assert found.rows[key].value == 8
    system = tiny_params.base.system_prompt
    judge = ProbeJudge(tiny_model, tiny_tokenizer, system, paths.JUDGE_MODEL)
    assert judge.id == found.rows["judge"].status
    good, bad = judge.judge(
        [JudgeRow("What now?", "Water them in the evening."), JudgeRow("What now?", "x x 9 9")]
    )
    assert good.status == dict.fromkeys([*ASPECTS, *KINDS], "ok")
    said = {aspect: e.status for aspect, e in found.group("aspects").items()}
    assert said == dict.fromkeys([*ASPECTS, *KINDS], "judged")
    for aspect in (*ASPECTS, *KINDS):
        better, worse = (bad, good) if aspect in KINDS[:3] else (good, bad)
        high, low = better.scores[aspect], worse.scores[aspect]
        assert high is not None and low is not None and high > low


def test_sampled_answers_choose_and_calibrate() -> None:
    """Where authored and sampled answers disagree on the direction, the sampled ones decide."""
    seen, labels, groups = planted("aligned")
    counted = np.arange(len(labels)) >= 80
    seen.activations[~counted, 0, 0, 7] += (labels[~counted] - 50) / 5  # block 3, authored only
    choice, _ = probe.fit(seen, labels, groups, counted, SETTINGS, "aligned")
    assert 5 in choice.layers
    assert choice.pooling == "last"


def test_further_aspects_keep_the_mean_label() -> None:
    """`share` is for rates at a cut; of further aspects means are compared."""
    settings = SETTINGS.model_copy(update={"calibration": "share"})
    seen, labels, groups = planted("aligned")
    low = labels * 0.4  # hardly any reaches the middle
    counted = np.ones(len(labels), bool)
    choice, linear = probe.fit(seen, low, groups, counted, settings, "aggression")
    scores = linear.score(design(seen, LAYERS, choice))
    assert scores.mean() == pytest.approx(low.mean(), abs=4)
    assert not choice.text
    assert probe.fit(seen, low, groups, counted, settings, "helpfulness")[0].text


# What the probes see: prefix, padding and batch leave no trace.

READ = [0, 2, 3]
SYSTEM = "Be brief."
ROWS = [
    ("Why do cats purr?", "They are content."),
    ("What now?", "Take a map outside and begin with the brightest ones, then go on."),
    ("Why do cats purr?", "No."),
    ("Why do cats purr?", "Water them in the evening and cover the soil with straw. Water them."),
    ("What now?", "Why?"),
]


@pytest.fixture(scope="module")
def read(tiny_model: Any, tiny_tokenizer: Any) -> Features:
    return features(tiny_model, tiny_tokenizer, ROWS, READ, SYSTEM)


def plain(model: Any, tokenizer: Any, question: str, answer: str) -> tuple[np.ndarray, np.ndarray]:
    """Activations and text features from one unpadded forward over the whole chat."""
    prompt = render(tokenizer, question, SYSTEM).ids
    ids = torch.tensor([*prompt, *answer_ids(tokenizer, answer)])
    states: list[Any] = []
    with ExitStack() as stack, torch.no_grad():
        for layer in READ:
            block = model.model.layers[layer]
            handle = block.register_forward_hook(lambda m, a, out: states.append(out))
            stack.callback(handle.remove)
        logits = model(input_ids=ids[None]).logits[0]
    blocks = [(s[0] if isinstance(s, tuple) else s)[0, len(prompt) :] for s in states]
    pooled = torch.stack([torch.stack([b.mean(0), b[-1]]) for b in blocks], dim=1)
    logs = logits.log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]]
    tail = logs[len(prompt) - 1 :].numpy()
    return pooled.numpy(), text_features(ids[len(prompt) :].numpy(), tail)


def test_equal_to_a_plain_forward(read: Features, tiny_model: Any, tiny_tokenizer: Any) -> None:
    assert read.activations.shape == (len(ROWS), len(POOLINGS), len(READ), 32)
    assert read.text.shape == (len(ROWS), TEXT_FEATURES)
    for i, row in enumerate(ROWS):
        activations, text = plain(tiny_model, tiny_tokenizer, *row)
        np.testing.assert_allclose(read.activations[i], activations, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(read.text[i], text, rtol=1e-4, atol=1e-4)


def test_company_and_order_do_not_matter(
    read: Features, tiny_model: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "BATCH", 1)
    order = [3, 0, 4, 2, 1]
    alone = features(tiny_model, tiny_tokenizer, [ROWS[i] for i in order], READ, SYSTEM)
    np.testing.assert_allclose(alone.activations, read.activations[order], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(alone.text, read.text[order], rtol=1e-4, atol=1e-4)


def test_an_empty_answer_is_one_token_that_no_text_can_write_and_no_hook_stays(
    tiny_model: Any, tiny_tokenizer: Any
) -> None:
    def hooks() -> list[int]:  # transformers has some of its own
        return [len(module._forward_hooks) for module in tiny_model.modules()]

    before = hooks()
    empty, end = (
        features(tiny_model, tiny_tokenizer, [("Why?", answer)], READ, SYSTEM)
        for answer in ("", "<|im_end|>")
    )
    assert np.isfinite(empty.text).all() and np.isfinite(empty.activations).all()
    assert not np.allclose(empty.activations, end.activations)  # which is text like any other
    assert hooks() == before


def test_text_features_by_hand() -> None:
    found = text_features(np.array([5, 7, 5, 7, 9]), np.array([-1.0, -2.0, -3.0, -4.0, -5.0]))
    # 10th percentile between -5 and -4; pairs 57 75 57 79
    np.testing.assert_allclose(found, [-3.0, -4.6, np.sqrt(2.0), 3 / 5, 3 / 4, 2 / 5], rtol=1e-6)
    one = text_features(np.array([5]), np.array([-1.5]))
    np.testing.assert_allclose(one, [-1.5, -1.5, 0.0, 1.0, 1.0, 1.0])
