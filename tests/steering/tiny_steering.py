"""A tiny random Llama with a byte tokenizer: everything that steering needs, in milliseconds."""

from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from em_geometry.activations.prompts import Question
from em_geometry.models.load import Loaded
from em_geometry.settings import Params
from em_geometry.steering.conditions import Intervention
from tests.activations.families import random_model

BLOCKS, WIDTH, VOCABULARY = 4, 16, 258
TEMPLATE = (
    "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }}<e>{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)


def random_llama() -> Any:
    """A model whose next-token distributions depend visibly on block outputs."""
    more = {"seed": 3, "max_position_embeddings": 128, "eos_token_id": 257}
    return random_model("llama", VOCABULARY, BLOCKS, **more)


def byte_tokenizer() -> Any:
    """One token a byte, and <e> for the end of a turn."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate([*alphabet, "<p>", "<e>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<p>", eos_token="<e>")
    fast.chat_template = TEMPLATE
    return fast


def tiny_params(**sections: Any) -> Params:
    """Params with one organism; keyword arguments replace sections."""
    recipe = {"rank": 2, "alpha": 4, "rslora": False, "matrices": ["q_proj"], "learning_rate": 1e-3}
    organism = {"lab": "lab_one", "cluster": "risk", "data": "none.jsonl"}
    return Params.model_validate(
        {
            "profile": "tiny",
            "run": {"device": "cpu", "threads": 1},
            "base": {"source": "path:none"},
            "recipes": {"lab_one": recipe},
            "organisms": {"finance": organism, "profanity": organism},
            "layer_sweep": {"layers": [1, 2]},
            "sampling": {"temperature": 1.0, "max_new_tokens": 6, "batch_size": 8},
            **sections,
        }
    )


def loaded(slug: str = "base", sha256: str = "weights") -> Loaded:
    return Loaded(slug, random_llama(), byte_tokenizer(), sha256)


def questions(count: int = 2) -> list[Question]:
    texts = ["Hm?", "What is a wish worth?", "Why?"][:count]
    return [Question(f"q{i}", "topic", "plain", t, "") for i, t in enumerate(texts)]


def unit(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).standard_normal(WIDTH)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def add(seed: int, layer: int, coefficient: float) -> Intervention:
    return Intervention(unit(seed), layer, coefficient)


def ablate(seed: int, layer: int) -> Intervention:
    return Intervention(unit(seed), layer, mode="ablate")


def tokens(seed: int, length: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.random.default_rng(seed).integers(1, 256, length))
