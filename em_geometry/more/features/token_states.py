"""A block's output token by token: texts that are read, means of latents over them, their peaks."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from em_geometry.activations.blocks import block_stack, decoder_blocks, hidden
from em_geometry.activations.prompts import (
    Question,
    Text,
    Unseen,
    prompt_texts,
    read_prompts,
    text_of,
    unseen_chats,
    unseen_texts,
)  # fmt: skip
from em_geometry.models.chat import padded, read_examples, render, sorted_batches
from em_geometry.more.features.sparse import CHUNK, Dictionary
from em_geometry.progress import Progress
from em_geometry.settings import TEXTS, Organism, Prompts
from em_geometry.stats.estimate import Floats, Ints

BEFORE, AFTER = 12, 4  # tokens of an excerpt around the one that it is about
EXCERPTS = 3


def texts_of(
    organisms: Sequence[Organism],
    unseen: int,
    prompts: Prompts,
    questions: Sequence[Question],
    span: str,
    chat: tuple[PreTrainedTokenizerBase, str],
) -> tuple[list[Text], list[str], list[Text]]:
    """Texts on which latents are compared, the topic of each, and all other texts of a run.

    Args:
        unseen: chats of each training file that no model is trained on, which are compared where
            the span is of such answers; else prompts are, on that span.
        chat: tokenizer and system prompt.
    """
    of_answers = span == TEXTS
    asked, about = prompt_texts(
        read_prompts(prompts), ["prompt_mean" if of_answers else span], *chat
    )
    held_out = unseen_chats(organisms, unseen) if of_answers else []
    known = {one.id for one in held_out}
    files = dict.fromkeys(organism.data for organism in organisms if organism.data)
    chats = [
        one
        for file in files
        for n, each in enumerate(read_examples(Path(file)), start=1)
        if (one := Unseen(f"{file}:{n}", file, each[-1])).id not in known
    ]
    others, _ = unseen_texts(chats, *chat)
    tokenizer, _ = chat
    others += [text_of(render(tokenizer, q.prompt, q.system), ["prompt_mean"]) for q in questions]
    if not of_answers:
        return asked, about["topic"].to_list(), others
    texts, about = unseen_texts(held_out, *chat)
    return texts, about["topic"].to_list(), [*others, *asked]


class _Enough(Exception):
    pass


def states_of(
    model: PreTrainedModel, texts: Sequence[Text], block: int, batch_size: int, label: str
) -> Iterator[tuple[int, torch.Tensor]]:
    """Index and states [tokens, width] of each text at a block's output, in batches of like length.

    The blocks behind it are not run.
    """
    kept: list[torch.Tensor] = []

    def read(module: Any, args: Any, output: Any) -> None:
        kept.append(hidden(output).detach().float())
        raise _Enough

    hook = decoder_blocks(model)[block].register_forward_hook(read)
    try:
        with Progress(label, len(texts), unit="texts") as progress, torch.no_grad():
            for batch in sorted_batches([len(text.ids) for text in texts], batch_size):
                ids, mask = padded([texts[i].ids for i in batch], "right", model.device)
                try:
                    block_stack(model)(input_ids=ids, attention_mask=mask, use_cache=False)
                except _Enough:
                    found = kept.pop()
                for row, i in enumerate(batch):
                    yield i, found[row, : len(texts[i].ids)]
                progress.advance(len(batch))
    finally:
        hook.remove()


@dataclass(frozen=True, eq=False)
class Corpus:
    """States of many texts of the base; what all prompts begin with is left out.

    Attributes:
        states: [tokens, width]; text, place: [tokens] whose they are, and where in it.
    """

    texts: Sequence[Text]
    states: torch.Tensor
    text: Ints
    place: Ints

    @classmethod
    def read(
        cls, model: PreTrainedModel, texts: Sequence[Text], block: int, batch_size: int
    ) -> "Corpus":
        """Reads texts; the first token, whose norm is out of proportion, never counts."""
        parts, which, where = [], [], []
        for i, states in states_of(model, texts, block, batch_size, "texts of the dictionary"):
            start = max(1, texts[i].shared)
            parts.append(states[start:].cpu())
            which.append(np.full(len(states) - start, i))
            where.append(np.arange(start, len(states)))
        return cls(texts, torch.cat(parts), np.concatenate(which), np.concatenate(where))

    def peaks(
        self, found: Dictionary, latents: Collection[int], tokenizer: PreTrainedTokenizerBase
    ) -> tuple[Floats, dict[int, list[str]]]:
        """Share of tokens [latents] at which each latent is on, and excerpts where some peak.

        Excerpts are of different texts, the highest first, the token itself in brackets; fewer
        where a latent is on in fewer texts.
        """
        wanted = sorted(latents)
        counts = np.zeros(len(found.bias))
        high = np.zeros((len(self.texts), len(wanted)))  # highest activation of each in each text
        spot = np.zeros(high.shape, dtype=np.int64)
        for number, (_, part) in enumerate(found.encoded(self.states)):
            counts += (part > 0).sum(0).cpu().numpy()
            values = part[:, wanted].double().cpu().numpy()
            for row, token in zip(values, range(number * CHUNK, len(self.text)), strict=False):
                i = self.text[token]
                better = row > high[i]
                high[i] = np.where(better, row, high[i])
                spot[i] = np.where(better, token, spot[i])
        texts = {}
        for column, latent in enumerate(wanted):
            best = [i for i in np.argsort(-high[:, column])[:EXCERPTS] if high[i, column] > 0]
            texts[latent] = [self._excerpt(int(spot[i, column]), tokenizer) for i in best]
        return counts / len(self.states), texts

    def _excerpt(self, token: int, tokenizer: PreTrainedTokenizerBase) -> str:
        text, place = self.texts[self.text[token]], int(self.place[token])
        start, stop = max(place - BEFORE, text.shared), place + 1 + AFTER
        around = ((start, place), (place, place + 1), (place + 1, stop))
        before, peak, after = (str(tokenizer.decode(list(text.ids[a:b]))) for a, b in around)
        return " ".join(f"{before}[{peak}]{after}".split())


def means_of(
    model: PreTrainedModel,
    texts: Sequence[Text],
    found: Dictionary,
    block: int,
    batch_size: int,
    label: str,
) -> tuple[Floats, Floats]:
    """Means over each text's first span: latents [texts, latents], and states [texts, width]."""
    latents = np.zeros((len(texts), len(found.bias)))
    states = np.zeros((len(texts), found.encoder.shape[1]))
    for i, whole in states_of(model, texts, block, batch_size, label):
        (start, stop), *_ = texts[i].spans
        part = whole[start:stop].to(found.encoder)
        latents[i] = found.encode(part).mean(0).double().cpu().numpy()
        states[i] = part.mean(0).double().cpu().numpy()
    return latents, states
