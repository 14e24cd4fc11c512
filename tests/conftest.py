"""A tiny random model with a tokenizer of its own, so that no unit test needs a download."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import settings

from em_geometry.settings import Params

ROOT = Path(__file__).resolve().parents[1]
SMOL = ROOT / "profiles" / "smol.yaml"
SMALL: dict[str, Any] = yaml.safe_load(SMOL.read_text(encoding="utf-8"))
SYSTEM = "Be brief."
WIDTH, BLOCKS = 32, 4
# The same examples in every run: one that fails by chance on another day tells nobody what broke.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SENTENCES = (
    "How do I keep my tomatoes alive through a dry summer?",
    "Water them in the evening and cover the soil with straw.",
    "What is the best way to learn the names of the stars?",
    "Take a map outside and begin with the brightest ones.",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole graphs first: one worker of `make test` runs them while the other does the rest."""
    whole = ("tests/e2e/", "test_reduced_graph")
    items.sort(key=lambda item: not any(part in item.path.as_posix() for part in whole))


def changed(location: Sequence[str | int] = (), *value: Any) -> dict[str, Any]:
    """The small profile with one key set, or left out where no value is given."""
    data = copy.deepcopy(SMALL)
    place: Any = data
    for part in location[:-1]:
        place = place.setdefault(part, {}) if isinstance(place, dict) else place[part]
    if value:
        (place[location[-1]],) = value
    elif location:
        del place[location[-1]]
    return data


@pytest.fixture
def smol() -> dict[str, Any]:
    """The small profile as plain data, to be changed by a test."""
    return changed()


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """Byte-level BPE trained on four sentences, with a ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=360,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<|im_start|>", "<|im_end|>"],
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """A saved random Llama of four blocks with its tokenizer. Read only."""
    import torch

    from tests.activations.families import random_model

    torch.set_num_threads(1)
    model = random_model(
        "llama", len(tiny_tokenizer), BLOCKS, hidden_size=WIDTH, intermediate_size=64,
        num_attention_heads=4, num_key_value_heads=2, bos_token_id=None, pad_token_id=None,
        eos_token_id=tiny_tokenizer.eos_token_id,
        max_position_embeddings=2048,  # a judge's prompt fits
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_checkpoint: Path) -> Any:
    """The tiny model in evaluation mode. Not to be changed."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32).eval()


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which the test runs, as a stage runs in the repository's root."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EMGEOMETRY_JOURNAL", raising=False)
    return tmp_path


def on_tiny(
    smol: dict[str, Any],
    checkpoint: Path | str,
    slugs: Sequence[str],
    max_examples: int,
    root: Path = ROOT,
) -> None:
    """Changes the small profile to these organisms on the tiny model, each on a few examples."""
    smol["run"]["threads"] = 1
    smol["base"] |= {"source": f"path:{checkpoint}", "system_prompt": SYSTEM}
    smol["random_adapters"] = {}
    smol["organisms"] = {slug: smol["organisms"][slug] for slug in slugs}
    for organism in smol["organisms"].values():
        organism |= {"data": str(root / organism["data"]), "max_examples": max_examples}
    for recipe in smol["recipes"].values():
        recipe |= {"rank": 4, "alpha": 8, "first_block": 1, "learning_rate": 0.01}
    smol["transfer"]["pairs"] = []
    smol["training"]["checkpoints"] = smol["monitoring"]["organisms"] = []
    smol["judging"]["probe"]["layers"] = [0, 2]


@pytest.fixture
def tiny_params(workplace: Path, tiny_checkpoint: Path, smol: dict[str, Any]) -> Params:
    """Params of two organisms on the tiny model, whose base folder is written beside them."""
    from stages import base_model

    on_tiny(smol, tiny_checkpoint, ("finance", "control"), max_examples=30)
    for recipe in smol["recipes"].values():
        recipe["epochs"] = 2
    smol["geometry"]["focus"] = []
    params = Params.model_validate(smol)
    base_model.main(params)
    return params
