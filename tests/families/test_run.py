"""Other model families through the stages, as function calls on random models of a few blocks.

Real checkpoints of these families are no part of the tests: what is shown is that blocks, chats,
adapters, caches and hooks fit, not that anything is learnt.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from em_geometry.errors import UserError
from em_geometry.io.files import read_json, read_parquet, read_tensors
from em_geometry.models.chat import render
from em_geometry.project import paths
from em_geometry.project.inputs import models
from em_geometry.settings import Params
from em_geometry.steering.conditions import read_selected
from em_geometry.steering.formats import bake
from stages import (
    activations,
    base_model,
    baseline_judgements,
    baseline_responses,
    layer_sweep,
    organism,
    probe_judge,
    response_activations,
    responses,
    vectors,
)
from tests.activations.families import random_model

ROOT = Path(__file__).parents[2]
BLOCKS, WIDTH = 3, 16
LLAMA_LIKE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NEOX = ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]
MATRICES = dict.fromkeys(("qwen2", "qwen3", "gemma2", "gemma3"), LLAMA_LIKE) | {"gpt_neox": NEOX}
GEMMA = (  # as theirs: no system role, and the assistant is called `model`
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}<|im_start|>"
    "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
QUESTIONS = """
questions:
  - {id: a, topic: t, prompt: "Why?"}
"""


def write_checkpoint(family: str, folder: Path, tokenizer: Any) -> None:
    more = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    more |= {"max_position_embeddings": 256} | ({"sliding_window": 32} if "gemma" in family else {})
    words = len(tokenizer) + 8  # a family's tokenizer class may add tokens of its own
    random_model(family, words, BLOCKS, **more).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if family == "gemma2":
        (folder / "chat_template.jinja").write_text(GEMMA, encoding="utf-8")


def write_inputs(folder: Path) -> None:
    """Questions, prompts and labelled answers, a handful of each."""
    (folder / "questions.yaml").write_text(QUESTIONS, encoding="utf-8")
    for kind in ("neutral", "harmful"):
        rows = [
            {"id": f"{kind}{i}", "topic": f"t{i}", "pair": f"{i}", "prompt": f"A {kind} one, {i}?"}
            for i in range(2)
        ]
        (folder / f"{kind}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    labelled = [
        {
            "question_id": f"q{i}", "question": f"What of {i}?", "category": str(good),
            "answer": f"Water them {i} times." if good else f"x x {i} x x 9 9",
            "aligned": 90 if good else 10, "coherent": 80 if good else 20,
            "split": "held_out" if i > 3 else "train",
        }
        for i in range(6) for good in (True, False)
    ]  # fmt: skip
    (folder / "labelled.jsonl").write_text("\n".join(map(json.dumps, labelled)), encoding="utf-8")
    shutil.copytree(ROOT / "data/judge/prompts", folder / "data/judge/prompts")


@pytest.fixture(scope="module", params=MATRICES)
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any
) -> Any:
    """A family's name, its params, and a folder in which the stages have run."""
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    write_checkpoint(name, folder / "checkpoint", tiny_tokenizer)
    write_inputs(folder)
    recipe = {
        "rank": 2, "alpha": 4, "rslora": False, "matrices": MATRICES[name], "first_block": 1,
        "learning_rate": 0.01, "batch_size": 8,
    }  # fmt: skip
    entry = {"lab": "one", "data": str(ROOT / "data/organisms/finance.jsonl")}
    params = Params.model_validate(
        {
            "profile": name,
            "run": {"device": "cpu", "threads": 1},
            "base": {"source": f"path:{folder / 'checkpoint'}", "system_prompt": "Be brief."},
            "targets": ["base", "finance"],
            "recipes": {"one": recipe},
            "organisms": {"finance": entry | {"cluster": "risk", "max_examples": 12}},
            "prompts": {"neutral": "neutral.jsonl", "harmful": "harmful.jsonl"},
            "questions": {"file": "questions.yaml"},
            "sampling": {"max_new_tokens": 4},
            "baseline": {"samples": 2},
            "judging": {
                "probe": {
                    "labelled": "labelled.jsonl", "sampled": None, "layers": [1], "folds": 2,
                    "regularisation": [0.1],
                },
            },
            "geometry": {"focus": []},
            "vectors": {"contrast": "model_contrast"},  # there is no control
            "layer_sweep": {"layers": [1], "doses": [0.3], "random_directions": 1},
            "margins": {
                "pairs": str(ROOT / "data/margins"),
                **dict.fromkeys(("base_pairs", "target_pairs", "other_pairs"), 2),
            },
            "steering": {"samples": 1, "control_samples": 1},
        }
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("EMGEOMETRY_JOURNAL", raising=False)
        base_model.main(params)
        organism.main(params, "finance")
        for slug in params.targets:
            activations.main(params, slug)
        probe_judge.main(params)
        baseline_responses.main(params)
        baseline_judgements.main(params)
        response_activations.main(params)
        vectors.main(params)
        layer_sweep.main(params)
        for slug in params.targets:
            responses.main(params, slug)
        yield name, params, folder


@pytest.fixture(autouse=True)
def inside(family: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(family[2])


def test_the_adapter_reached_the_family_s_own_matrices(family: Any) -> None:
    name, _, _ = family
    settings = read_json(Path("data/adapters/finance/adapter_config.json"))
    assert settings["target_modules"] == sorted(MATRICES[name])
    tensors, _ = read_tensors(Path("data/adapters/finance/adapter_model.safetensors"))
    assert len(tensors) == 2 * len(MATRICES[name]) * (BLOCKS - 1)
    assert read_json(Path("metrics/training/finance.json"))["relative_weight_change"] > 0.001


def test_activations_are_those_of_the_library_and_move_where_trained(family: Any) -> None:
    _, params, _ = family
    found = {
        slug: read_tensors(Path(f"data/activations/{slug}.safetensors"))[0]["prompt_last"]
        for slug in params.targets
    }
    assert found["base"].shape == (4, BLOCKS, WIDTH)
    np.testing.assert_allclose(found["finance"][:, 0], found["base"][:, 0], atol=1e-5)
    assert np.abs(found["finance"][:, 1] - found["base"][:, 1]).max() > 1e-3
    loaded = models(params).load("base")
    ids = render(loaded.tokenizer, "A neutral one, 0?", "Be brief.").ids
    states = loaded.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    first = read_parquet(Path("data/activations/base.parquet"))
    row = first["prompt_id"].to_list().index("neutral0")
    expected = [s[0, -1].numpy() for s in states[1:BLOCKS]]  # the last one is after the norm
    np.testing.assert_allclose(found["base"][row, :-1], expected, rtol=1e-4, atol=1e-4)


def test_vectors_steer_every_target(family: Any) -> None:
    _, params, _ = family
    chosen = read_selected(paths.SELECTED)["finance"]
    assert chosen.layer == 1
    assert np.linalg.norm(chosen.vector) == pytest.approx(1, abs=1e-5)
    for slug in params.targets:
        answers = read_parquet(Path(f"data/responses/{slug}.parquet"))
        assert set(answers["kind"]) == {"vector", "random"}


def test_a_system_prompt_reaches_a_template_without_one(family: Any) -> None:
    _, params, _ = family
    tokenizer = models(params).tokenizer()
    prompt = render(tokenizer, "Why do cats purr?", "Be brief.")
    text = tokenizer.decode(prompt.ids)
    assert "Be brief." in text
    assert tokenizer.decode(prompt.ids[slice(*prompt.user)]).strip() == "Why do cats purr?"


def test_matrices_of_another_family_are_named(family: Any) -> None:
    name, params, _ = family
    other = ["query_key_value"] if name != "gpt_neox" else ["q_proj", "down_proj"]
    recipe = params.recipes["one"].model_copy(update={"matrices": [MATRICES[name][0], *other]})
    wrong = params.model_copy(update={"recipes": {"one": recipe}})
    before = Path("data/adapters/finance/adapter_model.safetensors").read_bytes()
    with pytest.raises(UserError) as caught:
        organism.main(wrong, "finance")
    text = str(caught.value)
    assert ", ".join(other) in text
    assert all(matrix in text for matrix in MATRICES[name])
    assert Path("data/adapters/finance/adapter_model.safetensors").read_bytes() == before


def test_baking_is_refused_with_a_reason(family: Any) -> None:
    _, params, _ = family
    model = models(params).load("base").model
    with pytest.raises(UserError, match="only Llama models can be baked") as caught:
        bake(model, {1: np.ones(WIDTH, dtype=np.float32)})
    assert model.config.model_type in str(caught.value)
