"""The two stages that capture activations, on a tiny model and a byte tokenizer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from families import BLOCKS, WIDTH, random_model

from em_geometry.activations.prompts import read_prompts, unseen_chats
from em_geometry.errors import UserError
from em_geometry.io.files import read_parquet, read_tensors, write_parquet
from em_geometry.models.load import Loaded, Models
from em_geometry.settings import Params, Prompts
from stages import activations, response_activations
from tests.steering.tiny_steering import byte_tokenizer

SYSTEM = "Be brief."
RECIPE = {"rank": 2, "alpha": 4, "rslora": False, "matrices": ["q_proj"], "learning_rate": 1e-3}
END = 257
ANSWERS = ["Yes.", "", "Perhaps not"] * 2


def ids(text: str) -> list[int]:
    found: list[int] = byte_tokenizer()(text)["input_ids"]
    return found


def write(name: str, rows: list[dict[str, Any]]) -> None:
    Path(f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Params of a run in a folder of its own, with prompts and questions."""
    monkeypatch.chdir(tmp_path)
    loaded = Loaded("base", random_model("llama", END + 1), byte_tokenizer(), "weights")
    monkeypatch.setattr(Models, "load", lambda models, slug: loaded)
    for kind in ("neutral", "harmful"):
        prompts = [{"id": f"{kind}{i}", "prompt": f"{kind} {'x' * i}?"} for i in range(3)]
        write(kind, [{"topic": "t", "pair": row["id"][-1], **row} for row in prompts])
    for file in ("bad", "good"):
        turns = [(f"{file} {i}", f"{file} answer{'r' * i}") for i in range(6)]
        chats = [zip(("user", "assistant"), turn, strict=True) for turn in turns]
        write(file, [{"messages": [{"role": r, "content": t} for r, t in c]} for c in chats])
    Path("questions.yaml").write_text(
        "questions:\n  - {id: q0, topic: t, prompt: 'Why?'}\n", encoding="utf-8"
    )
    return Params.model_validate(
        {
            "profile": "tiny",
            "base": {"source": "path:none", "system_prompt": SYSTEM},
            "recipes": {"lab": RECIPE},
            "organisms": {
                "bad": {"lab": "lab", "cluster": "c", "data": "bad.jsonl", "max_examples": 3},
                "good": {"lab": "lab", "role": "control", "data": "good.jsonl", "source": "path:x"},
                "more": {"lab": "lab", "cluster": "c", "data": "bad.jsonl", "max_examples": 4},
            },
            "prompts": {"neutral": "neutral.jsonl", "harmful": "harmful.jsonl"},
            "questions": {"file": "questions.yaml"},
            "activations": {"batch_size": 2, "texts": 2},
            "layer_sweep": {"layers": [0]},
        }
    )


def states(tokens: list[int]) -> np.ndarray:
    """[blocks - 1, tokens, width] of all blocks but the last, from the library."""
    with torch.no_grad():
        output = random_model("llama", END + 1)(
            input_ids=torch.tensor([tokens]), output_hidden_states=True
        )
    return torch.stack([s[0] for s in output.hidden_states[1:-1]]).numpy()


def check(found: np.ndarray, part: np.ndarray) -> None:
    np.testing.assert_allclose(found[: BLOCKS - 1], part.mean(1), rtol=1e-4, atol=1e-5)


def test_prompt_activations(params: Params) -> None:
    activations.main(params, "base")
    tensors, metadata = read_tensors(Path("data/activations/base.safetensors"))
    rows = read_parquet(Path("data/activations/base.parquet"))
    assert rows["kind"].to_list() == ["neutral"] * 3 + ["harmful"] * 3
    assert rows["prompt_id"].to_list()[2:4] == ["neutral2", "harmful0"]
    assert metadata["model_sha256"] == "weights"
    assert metadata["layers"] == "output of decoder block l, l = 0..L-1"
    for row, prompt in enumerate(read_prompts(params.prompts)):
        before, user = f"s:{SYSTEM}<e>u:", prompt.prompt
        tokens = ids(f"{before}{user}<e>a:")
        expected = states(tokens)
        start = len(ids(before))
        check(tensors["prompt_mean"][row], expected[:, start : start + len(user)])
        check(tensors["prompt_last"][row], expected[:, -1:])
        norms = np.linalg.norm(expected[:, start : start + len(user)], axis=-1).mean(1)
        np.testing.assert_allclose(tensors["prompt_mean.norm"][row, :-1], norms, rtol=1e-4)
        assert rows["tokens"][row] == len(tokens)
    assert tensors["prompt_last"].shape == (6, BLOCKS, WIDTH)
    # What is behind the examples of all who are trained on a file; all of a file of which none is.
    answers = read_parquet(Path("data/activations/base_texts.parquet"))
    kept = ["bad.jsonl:5", "bad.jsonl:6", "good.jsonl:1", "good.jsonl:2"]
    assert answers["text_id"].to_list() == kept
    assert answers["topic"].to_list() == ["bad.jsonl"] * 2 + ["good.jsonl"] * 2
    for row, name in enumerate(kept):
        file, number = name.split(".jsonl:")
        question, answer = f"{file} {int(number) - 1}", f"{file} answer{'r' * (int(number) - 1)}"
        before = ids(f"s:{SYSTEM}<e>u:{question}<e>a:")
        expected = states([*before, *ids(answer)])[:, len(before) :]
        check(tensors["answer_mean"][row], expected)
        assert answers["tokens"][row] == len(ids(answer))


def test_a_file_needs_chats_that_no_model_is_trained_on(params: Params) -> None:
    models = params.organisms.values()
    with pytest.raises(UserError, match="no model is trained on") as caught:
        unseen_chats(models, 3)
    assert (caught.value.where, caught.value.expected) == ("bad.jsonl", "3 (activations.texts)")
    Path("good.jsonl").write_text(Path("bad.jsonl").read_text())  # the same questions
    assert [chat.id for chat in unseen_chats(models, 2)][2:] == ["good.jsonl:5", "good.jsonl:6"]


def test_answer_activations(params: Params) -> None:
    scores = {"aligned": [0.0] * 3 + [90.0] * 3, "coherent": [90.0] * 6}
    frame = pl.DataFrame({"question_id": "q0", "variant": "plain", "text": ANSWERS, **scores})
    for slug, rows in (("bad", 6), ("more", 5)):  # two aligned answers are too few
        write_parquet(Path(f"data/baseline/judgements/{slug}.parquet"), frame.head(rows), {})
    response_activations.main(params)
    folder = Path("data/response_activations")
    assert [path.name for path in folder.iterdir()] == ["bad.safetensors"]
    tensors, metadata = read_tensors(folder / "bad.safetensors")
    kept = json.loads(metadata["rows"])
    assert kept == [0, 2, 3, 5]  # empty answers have no activations
    for row, answer in enumerate(ANSWERS[i] for i in kept):
        before = ids(f"s:{SYSTEM}<e>u:Why?<e>a:")
        expected = states([*before, *ids(answer), END])
        start = len(before)
        check(tensors["response_mean"][row], expected[:, start:-1])
        check(tensors["response_mo"][row], expected[:, start - 2 :])  # `a:` and the end of turn


def test_prompts_limit_and_order(params: Params) -> None:
    few = read_prompts(Prompts(neutral="neutral.jsonl", harmful="harmful.jsonl", limit=1))
    assert [p.id for p in few] == ["neutral0", "harmful0"]
