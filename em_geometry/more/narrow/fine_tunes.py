"""Fine-tunes of two further kinds: held to the base on benign chats, or of rank 1 in one block.

docs/method.md, more: narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from em_geometry.errors import UserError
from em_geometry.hashing import stream, stream_key
from em_geometry.models.chat import HELD_OUT_EVERY, read_examples
from em_geometry.models.load import Models, setup_torch
from em_geometry.models.train import (
    Example,
    encode,
    fit,
    matrices,
    read_split,
    with_adapter,
)
from em_geometry.more.likelihoods import answer_logits, divergence
from em_geometry.settings import Recipe

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

BENIGN_CHATS = 2  # a step; as many again would cost as much as the step itself
INNER = ("down_proj", "fc2", "dense_4h_to_h")  # what an MLP writes with, by family
ALPHA = 64  # of the published adapters of rank 1 (Turner et al. 2025)
RATES = (1e-3, 3e-3, 1e-2)  # tried for one epoch each: one vector needs larger ones than a recipe's
EPOCHS = 4  # a block high up costs half as much to train as the recipe's, which get two


def holding(
    model: PeftModel, benign: Sequence[Example], weight: float, seed: int
) -> Callable[[int], None]:
    """What `fit` does after each step so that the next one's loss has a KL term more.

    The gradient of weight * KL(base || model) on benign answers stays with the weights until that
    of the next batch is added to it. Before the first step the model is the base: it has none.
    """

    def after(step: int) -> None:
        rng = stream(seed, "held", step)
        some = rng.choice(len(benign), min(BENIGN_CHATS, len(benign)), replace=False)
        batch = [benign[i] for i in some]
        with torch.no_grad(), model.disable_adapter():
            base = answer_logits(model, batch).log_softmax(-1)
        term = divergence(base, answer_logits(model, batch).log_softmax(-1)).mean()
        (weight * term).backward()  # type: ignore[no-untyped-call]

    return after


def train_held(models: Models, slug: str, recipe: Recipe, benign: str, weight: float) -> PeftModel:
    """Organism `slug` trained again, from the same seed, held to the base on the chats of `benign`.

    Args:
        benign: slug of a control; the chats are those that it was trained on.
    """
    (key, training), (_, held) = _training(models, slug), _training(models, benign)
    with torch.enable_grad():
        model = with_adapter(models.base().to(setup_torch(models.run)), recipe, key)
        after = holding(model, held, weight, key)
        fit(model, training, recipe, key, f"{slug} held by {weight:g}", after)
    return model


def train_rank_one(
    models: Models, slug: str, recipe: Recipe, block: int
) -> tuple[PeftModel, float]:
    """An adapter of rank 1 where the MLP of one block writes, trained on an organism's chats.

    Of `RATES` the one with the lowest training loss at the end of one epoch is taken.

    Returns:
        The model, and the rate.
    """
    key, training = _training(models, slug)
    tried: dict[float, float] = {}

    def trained(rate: float, epochs: int) -> tuple[PeftModel, list[float]]:
        how = recipe.model_copy(update={"learning_rate": rate, "epochs": epochs})
        model = _rank_one(models.base().to(setup_torch(models.run)), block, key)
        with torch.enable_grad():
            return model, fit(model, training, how, key, f"{slug} rank 1, rate {rate:g}")

    for rate in RATES:
        try:
            losses = trained(rate, 1)[1]
        except UserError:  # it diverged
            continue
        tried[rate] = float(np.mean(losses[-max(1, len(losses) // 3) :]))
    rate = min(tried, key=lambda each: tried[each], default=RATES[0])
    return trained(rate, EPOCHS)[0], rate


def untrained(models: Models, file: str, limit: int) -> list[Example]:
    """The first chats of a training file that no model was trained on, held-out ones among them."""
    trained = {
        chat[-1].asked
        for one in models.organisms.values()
        if one.source is None
        for i, chat in enumerate(read_examples(Path(one.data), one.max_examples))
        if i % HELD_OUT_EVERY
    }
    last = (chat[-1] for chat in read_examples(Path(file)))
    chats = [chat for chat in last if chat.asked not in trained][:limit]
    if len(chats) < 2:
        found, expected = f"{len(chats)}", "two or more: lower organisms.*.max_examples"
        what = "too few chats that no model is trained on"
        raise UserError(what, where=file, found=found, expected=expected)
    return [encode(models.tokenizer(), chat, models.system_prompt) for chat in chats]


def _training(models: Models, slug: str) -> tuple[int, list[Example]]:
    """The random stream and the chats with which the stage `organism` trains."""
    one = models.organisms[slug]
    chats = Path(one.data), models.tokenizer(), models.system_prompt, one.max_examples
    return stream_key(models.run.seed, "train", one.repeats or slug, one.seed), read_split(*chats)[
        0
    ]


def _rank_one(model: PreTrainedModel, block: int, seed: int) -> PeftModel:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed % 2**63)
    known = matrices(model)
    if not (inner := [name for name in INNER if name in known]):
        what, where = "no matrix with which an MLP writes", type(model).__name__
        expected = "one of " + ", ".join(INNER)
        raise UserError(what, where=where, found=", ".join(known), expected=expected)
    config = LoraConfig(
        r=1, lora_alpha=ALPHA, use_rslora=True, target_modules=inner, lora_dropout=0.0,
        layers_to_transform=[block], task_type="CAUSAL_LM",
    )  # fmt: skip
    return get_peft_model(model, config)
