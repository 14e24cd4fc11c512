"""Other model families, trained as function calls on random models of a few blocks.

tests/activations and tests/steering read and steer them. Real checkpoints of these families are no
part of the tests: what is shown is that blocks, chats, adapters, caches and hooks fit, not that
anything is learnt.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from em_geometry.errors import UserError
from em_geometry.io.files import read_json, read_tensors
from em_geometry.io.results import read_results
from em_geometry.models.chat import render
from em_geometry.project import paths
from em_geometry.project.inputs import models
from em_geometry.settings import Params
from em_geometry.steering.formats import bake
from stages import base_model, organism
from tests.activations.families import random_model
from tests.conftest import ROOT

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


def write_checkpoint(family: str, folder: Path, tokenizer: Any) -> None:
    more = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    more |= {"max_position_embeddings": 256} | ({"sliding_window": 32} if "gemma" in family else {})
    words = len(tokenizer) + 8  # a family's tokenizer class may add tokens of its own
    random_model(family, words, BLOCKS, **more).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if family == "gemma2":
        (folder / "chat_template.jinja").write_text(GEMMA, encoding="utf-8")


@pytest.fixture(scope="module", params=MATRICES)
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any
) -> Any:
    """A family's name, its params, and a folder in which an organism was trained."""
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    write_checkpoint(name, folder / "checkpoint", tiny_tokenizer)
    recipe = {
        "rank": 2, "alpha": 4, "rslora": False, "matrices": MATRICES[name], "first_block": 1,
        "learning_rate": 0.01, "batch_size": 8,
    }  # fmt: skip
    data = str(ROOT / "data/organisms/finance.jsonl")
    finance = {"lab": "one", "cluster": "risk", "data": data, "max_examples": 12}
    params = Params.model_validate(
        {
            "profile": name,
            "run": {"device": "cpu", "threads": 1},
            "base": {"source": f"path:{folder / 'checkpoint'}", "system_prompt": "Be brief."},
            "recipes": {"one": recipe},
            "organisms": {"finance": finance},
            "geometry": {"focus": []},
            "layer_sweep": {"layers": [1]},
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        base_model.main(params)
        organism.main(params, "finance")
    return name, params, folder


@pytest.fixture(autouse=True)
def inside(family: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(family[2])


def test_the_adapter_reached_the_family_s_own_matrices(family: Any) -> None:
    name, params, _ = family
    settings = read_json(Path("data/adapters/finance/adapter_config.json"))
    assert settings["target_modules"] == sorted(MATRICES[name])
    tensors, _ = read_tensors(Path("data/adapters/finance/adapter_model.safetensors"))
    assert len(tensors) == 2 * len(MATRICES[name]) * (BLOCKS - 1)
    assert read_results(paths.table("training/finance")).number("relative_weight_change") > 0.001
    base, trained = (
        models(params).load(slug).model(torch.arange(9)[None], output_hidden_states=True)
        for slug in params.targets
    )
    torch.testing.assert_close(base.hidden_states[1], trained.hidden_states[1])
    assert (base.hidden_states[2] - trained.hidden_states[2]).abs().max() > 1e-3


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
