"""What is read of chats: likelihoods of their answers, and how far these lie from the base's.

docs/method.md, more: narrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from em_geometry.errors import UserError
from em_geometry.models.chat import sorted_batches
from em_geometry.models.train import Example, answer_loss
from em_geometry.more.adapters import Factors
from em_geometry.stats.estimate import Floats

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AT_ONCE = 8  # chats in one pass


def answer_logits(model: PreTrainedModel, batch: Sequence[Example]) -> torch.Tensor:
    """Logits [answer tokens, vocabulary] of a batch, its examples one after the other."""
    kept: list[torch.Tensor] = []
    head = model.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, args, output: kept.append(output))
    try:
        answer_loss(model, batch)  # lets the head see no other tokens
    finally:
        handle.remove()
    return kept[0].float()


def divergence(base: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    """KL(base || model) of each token, in nats, of log-probabilities [tokens, vocabulary]."""
    return (base.exp() * (base - model)).sum(-1)


@contextmanager
def updated(
    model: PreTrainedModel, adapter: Mapping[str, Factors], scale: float = 1.0
) -> Iterator[None]:
    """The model with `scale` times an adapter merged in, while inside `with`; then as it was.

    Raises:
        UserError: the adapter is of another model.
    """
    modules: dict[str, Any] = dict(model.named_modules())
    before: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        with torch.no_grad():
            for name, each in adapter.items():
                weight = modules[name].weight if name in modules else torch.zeros(0)
                change = torch.from_numpy(scale * each.b @ each.a)
                if change.shape != weight.shape:
                    found, expected = (str(tuple(x.shape)) for x in (change, weight))
                    what = "an adapter of another model"
                    raise UserError(what, where=name, found=found, expected=expected)
                before.append((weight, weight.clone()))
                weight += change.to(weight)
        yield
    finally:
        with torch.no_grad():
            for weight, old in before:
                weight.copy_(old)


def read_answers(model: PreTrainedModel, examples: Sequence[Example]) -> list[torch.Tensor]:
    """Log-probabilities [answer tokens, vocabulary] of each example."""
    found: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        for part in sorted_batches([len(each.ids) for each in examples], AT_ONCE):
            batch = [examples[i] for i in part]
            read = answer_logits(model, batch).log_softmax(-1)
            sizes = [len(each.ids) - each.start for each in batch]
            found |= zip(part, torch.split(read, sizes), strict=True)
    return [found[i] for i in range(len(examples))]


def losses(read: Sequence[torch.Tensor], examples: Sequence[Example]) -> Floats:
    """Mean negative log-likelihood [examples] of the answers' tokens, nats a token."""
    pairs = zip(read, examples, strict=True)
    return np.array(
        [-float(each[range(len(each)), list(e.ids[e.start :])].mean()) for each, e in pairs]
    )
