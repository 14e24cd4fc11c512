"""Trait vectors: directions from system prompts for and against a trait, which need no organism.

docs/method.md, more: traits. Chen et al. 2025 sample answers under both kinds of prompts and keep
those that show the trait. A model too small to follow such a prompt shows nothing to keep, so the
base reads *authored* answers here: every answer under every prompt, which also tells what the
prompt does from what the answer's words do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from em_geometry.activations.capture import capture
from em_geometry.activations.prompts import Text
from em_geometry.errors import KeyFault, UserError
from em_geometry.hashing import value_sha256
from em_geometry.io.files import read_yaml
from em_geometry.io.journal import Journal
from em_geometry.models.chat import answer_ids, check_length, render
from em_geometry.more.kept import as_text, from_text
from em_geometry.settings import Slug
from em_geometry.steering.pairs import Pair

if TYPE_CHECKING:
    import numpy.typing as npt
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from em_geometry.models.load import Loaded

CODE = 1  # raise when the way a trait is read changes
WHOLE, PROMPT, WORDS = "whole", "prompt", "words"  # the vector, and the two parts it is the sum of
HINT = "data/traits/evil.yaml shows the shape"
Texts = Annotated[list[str], Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, str_min_length=1)


class Asked(_Strict):
    """A question with an answer that shows the trait and one that shows its opposite."""

    question: str
    positive: str
    negative: str


class Trait(_Strict):
    """A trait, or a benign contrast; prompts for and against it are paired in order."""

    name: Slug
    benign: bool = False
    positive: Texts
    negative: Texts
    questions: Annotated[list[Asked], Field(min_length=3)]  # of two, none can be left out

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if (n := len(self.negative)) != len(self.positive):
            what = "prompts for and against a trait are paired"
            raise KeyFault("negative", what, f"{n} prompts", f"{len(self.positive)}")
        return self


def read_traits(folder: Path) -> dict[str, Trait]:
    """The traits of a folder's `*.yaml` by name, in the order of the files.

    Raises:
        UserError: file and key of anything malformed; no files; a name twice.
    """
    found: dict[str, Trait] = {}
    for path in sorted(folder.glob("[!.]*.yaml")):
        trait = read_yaml(path, Trait, HINT)
        if trait.name in found:
            raise UserError("a trait's name occurs twice", where=path, found=trait.name)
        found[trait.name] = trait
    if not found:
        expected = "a file <trait>.yaml for each trait"
        raise UserError("no traits", where=folder, found="none", expected=expected, hint=HINT)
    return found


def readings(loaded: Loaded, traits: Mapping[str, Trait]) -> dict[str, npt.NDArray[np.float32]]:
    """Mean activations over answer tokens [questions, answers, prompts, blocks, width] by trait.

    Answers and prompts: for the trait, against it; the mean over the pairs of prompts. What the
    journal holds is not read again.
    """
    each = {name: _texts(trait, loaded.tokenizer) for name, trait in traits.items()}
    units = [[texts] for of in each.values() for texts in of]

    def key(texts: Sequence[Text]) -> str:
        return value_sha256([CODE, loaded.sha256, [[t.ids, t.spans] for t in texts]])

    with Journal("traits") as journal:
        done = journal.fill("traits", units, key, partial(_work, loaded.model))
    config = loaded.model.config.get_text_config()
    shape = (2, 2, config.num_hidden_layers, config.hidden_size)

    def value(texts: Sequence[Text]) -> npt.NDArray[np.float32]:
        return from_text(done[key(texts)], shape)

    return {name: np.stack([value(texts) for texts in of]) for name, of in each.items()}


def _texts(trait: Trait, tokenizer: PreTrainedTokenizerBase) -> list[list[Text]]:
    """Of each question both answers under all prompts, in the order (answer, kind, prompt)."""
    found = []
    for asked in trait.questions:
        texts = []
        for answer in (asked.positive, asked.negative):
            for system in (*trait.positive, *trait.negative):
                prompt = render(tokenizer, asked.question, system)
                ids = (*prompt.ids, *answer_ids(tokenizer, answer))
                check_length(tokenizer, len(ids), asked.question)
                span = (len(prompt.ids), len(ids))
                texts.append(Text(ids, (span,), shared=prompt.user[0]))
        found.append(texts)
    return found


def _work(model: PreTrainedModel, batch: Sequence[Sequence[Text]]) -> list[str]:
    """Means [answers, prompts, blocks, width] of each question, as text."""
    found = []
    for texts in batch:
        means = capture(model, texts)[0][:, 0].cpu().numpy()  # [texts, blocks, width]
        cells = means.reshape(2, 2, -1, *means.shape[1:]).mean(2)
        found.append(as_text(cells))
    return found


def parts(cells: npt.NDArray[np.floating]) -> dict[str, npt.NDArray[np.floating]]:
    """The contrast of each question [questions, blocks, width], whole and in two parts.

    `whole`: answers for the trait under prompts for it, minus answers against it under prompts
    against it. `prompt`: what the prompts change while both answers are read; `words`: what the
    answers change under both kinds of prompts. The whole is their sum.

    Args:
        cells: [questions, answers, prompts, blocks, width] of `readings`.
    """
    prompt = (cells[:, :, 0] - cells[:, :, 1]).mean(1)
    words = (cells[:, 0] - cells[:, 1]).mean(1)
    return {WHOLE: cells[:, 0, 0] - cells[:, 1, 1], PROMPT: prompt, WORDS: words}


def pairs_of(trait: Trait) -> list[Pair]:
    """The trait's answers as pairs, whose margin says how much likelier the trait's own one is."""
    return [
        # Its kind is one of those that the project has pairs of; nothing here reads it.
        Pair(id=f"{trait.name}{n}", kind="misaligned", split="reporting", topic=trait.name,
             question=asked.question, marked=asked.positive, plain=asked.negative)
        for n, asked in enumerate(trait.questions)
    ]  # fmt: skip
