"""What models are given: prompts for activations, open questions for behaviour, spans of both."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from em_geometry.errors import UserError
from em_geometry.io.files import checked, read_jsonl, read_yaml
from em_geometry.models.chat import (
    Exchange,
    Prompt,
    answer_ids,
    check_length,
    header_length,
    read_examples,
    render,
    turn_end,
)
from em_geometry.settings import Organism, Prompts, Questions

if TYPE_CHECKING:
    import polars as pl
    from transformers import PreTrainedTokenizerBase


class ActivationPrompt(BaseModel):
    """A prompt with its kind (neutral or harmful), topic (cluster of the bootstrap) and pair."""

    model_config = ConfigDict(frozen=True)

    id: str
    kind: str = ""  # says the file that it is read from
    topic: str
    pair: str
    prompt: str


def read_prompts(params: Prompts) -> list[ActivationPrompt]:
    """Neutral prompts, then harmful ones (paper sec. 2.1); UserError on duplicates, empty texts."""
    prompts = []
    seen: set[str] = set()
    for kind, name in (("neutral", params.neutral), ("harmful", params.harmful)):
        rows = read_jsonl(Path(name), ActivationPrompt)
        for row in rows:
            if row.id in seen or not row.prompt.strip():
                what = "a prompt's id occurs twice or its text is empty"
                expected = "distinct ids in both files, and texts"
                raise UserError(what, where=name, found=row.id, expected=expected)
            seen.add(row.id)
        count = min(params.limit or len(rows), len(rows))
        for row in (rows[i * len(rows) // count] for i in range(count)):  # spread over topics
            prompts.append(row.model_copy(update={"kind": kind}))
    return prompts


def spread_prompts(prompts: Sequence[ActivationPrompt], count: int) -> list[ActivationPrompt]:
    """At most `count` neutral prompts, spread over the topics."""
    neutral = [p for p in prompts if p.kind == "neutral"]
    return neutral[:: max(1, len(neutral) // max(1, count))][:count]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Entry(_Strict):
    id: str
    topic: str
    prompt: str
    variants: list[str] = ["plain"]
    system: str = ""  # added to the system prompt


class _Variant(_Strict):
    system: str = ""  # added to the system prompt
    suffix: str = ""  # added to the question


class _File(_Strict):
    questions: list[_Entry]
    variants: dict[str, _Variant] = {"plain": _Variant()}


class _Published(_Strict):
    """An entry of Betley et al.'s files; how often it is asked, and who judges, params say."""

    id: str
    paraphrases: Annotated[list[str], Field(min_length=1)]
    system: str | None = None
    type: Annotated[str, Field(pattern="^free_form")] = "free_form"
    samples_per_paraphrase: int | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    judge: object = None
    judge_prompts: object = None

    def entries(self) -> list[_Entry]:
        """A question each paraphrase, with one topic, as they are no independent questions."""
        one, system = len(self.paraphrases) == 1, self.system or ""
        named = {self.id if one else f"{self.id}_{n}": p for n, p in enumerate(self.paraphrases, 1)}
        return [_Entry(id=n, topic=self.id, prompt=p, system=system) for n, p in named.items()]


@dataclass(frozen=True)
class Question:
    """One question in one variant, as it is asked."""

    id: str
    topic: str
    variant: str
    prompt: str
    system: str


def read_questions(params: Questions, system: str) -> list[Question]:
    """The questions in the active variants, in file order; of the published shape all are plain.

    Args:
        system: the profile's system prompt; a variant adds to it.
    Raises:
        UserError: file, key and value of anything malformed; no questions; duplicate ids.
    """
    path = Path(params.file)
    data: object = read_yaml(path)
    hint = "data/questions/evaluation.yaml shows the shape"
    if isinstance(data, list):
        published = checked(list[_Published], data, str(path), hint)
        content = _File(questions=[entry for each in published for entry in each.entries()])
    else:
        content = checked(_File, data, str(path), hint)
    if not content.questions:
        raise UserError("no questions", where=path, found="none", expected="one or more")
    ids = [q.id for q in content.questions]
    if twice := [name for name in ids if ids.count(name) > 1]:
        what, expected = "a question id occurs twice", "distinct ids"
        raise UserError(what, where=path, found=twice[0], expected=expected)
    for name in params.variants:
        if name not in content.variants:
            raise UserError(
                "unknown variant of questions",
                where="params.yaml: questions.variants",
                found=name,
                expected="one of " + ", ".join(content.variants),
            )
    return [
        Question(
            entry.id,
            entry.topic,
            name,
            " ".join(filter(None, [entry.prompt, content.variants[name].suffix])),
            " ".join(filter(None, [system, entry.system, content.variants[name].system])),
        )
        for entry in content.questions[: params.limit]
        for name in params.variants
        if name in entry.variants
    ]


@dataclass(frozen=True)
class Text:
    """A token sequence and the half-open token ranges to average over, one per span.

    Its first `shared` tokens, which no span covers, are read once for all texts of a batch that
    begin with them.
    """

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    shared: int = 0

    @property
    def beginning(self) -> tuple[int, ...]:
        return self.ids[: self.shared]


def text_of(prompt: Prompt, spans: Sequence[str]) -> Text:
    """What is read of a prompt; what stands before the user's tokens is that of all prompts."""
    end = len(prompt.ids)
    ranges = tuple(prompt.user if span == "prompt_mean" else (end - 1, end) for span in spans)
    return Text(prompt.ids, ranges, shared=prompt.user[0])


def prompt_texts(
    prompts: Sequence[ActivationPrompt],
    spans: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    system: str,
) -> tuple[list[Text], pl.DataFrame]:
    """Prompts with their spans, and the table of them in the same order."""
    import polars as pl

    texts = [text_of(render(tokenizer, p.prompt, system), spans) for p in prompts]
    names = {"prompt_id": "id", "kind": "kind", "topic": "topic", "pair": "pair"}
    columns = {column: [getattr(p, name) for p in prompts] for column, name in names.items()}
    return texts, pl.DataFrame({**columns, "tokens": [len(text.ids) for text in texts]})


@dataclass(frozen=True)
class Unseen:
    """The last answer of a chat, and the training file that it is from."""

    id: str
    file: str
    chat: Exchange


def unseen_chats(organisms: Iterable[Organism], count: int) -> list[Unseen]:
    """The first `count` chats of each training file whose questions no model was trained on.

    A model that was not trained here has seen none of its file.

    Raises:
        UserError: a file has fewer.
    """
    files: dict[str, list[Exchange]] = {}
    trained: set[str] = set()
    for organism in organisms if count else ():
        last = [chat[-1] for chat in read_examples(Path(organism.data))]
        files[organism.data] = last
        if organism.source is None:
            trained |= {chat.asked for chat in last[: organism.max_examples]}
    found = []
    for file, last in files.items():
        chats = [Unseen(f"{file}:{n}", file, chat) for n, chat in enumerate(last, start=1)]
        rest = [one for one in chats if one.chat.asked not in trained]
        if len(rest) < count:
            raise UserError(
                "too few chats that no model is trained on",
                where=file,
                found=f"{len(rest)} of {len(last)}, the rest within organisms.*.max_examples",
                expected=f"{count} (activations.texts)",
                hint="lower max_examples of those who train on it, or add chats",
            )
        found += rest[:count]
    return found


def unseen_texts(
    chats: Sequence[Unseen], tokenizer: PreTrainedTokenizerBase, system: str
) -> tuple[list[Text], pl.DataFrame]:
    """Chats with the span of their answers, and the table of them; the topic is the file."""
    import polars as pl

    texts = []
    for chat in (one.chat for one in chats):
        prompt = render(tokenizer, chat.question, system, chat.before)
        ids = (*prompt.ids, *answer_ids(tokenizer, chat.answer))
        check_length(tokenizer, len(ids), chat.question)
        texts.append(Text(ids, ((len(prompt.ids), len(ids)),), shared=prompt.user[0]))
    tokens = [stop - start for text in texts for start, stop in text.spans]
    columns = {"text_id": [c.id for c in chats], "topic": [c.file for c in chats]}
    return texts, pl.DataFrame({**columns, "tokens": tokens})


def answer_texts(
    answers: pl.DataFrame, questions: Iterable[Question], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[Text], dict[str, str]]:
    """Answers that are not empty, with their spans, and metadata that name their rows.

    Spans: `response_mean` (the answer's own tokens) and `response_mo` (assistant header and
    end-of-turn token included, as the model-organisms code does).

    Raises:
        UserError: all answers are empty.
    """
    known = {(q.id, q.variant): q for q in questions}
    header = header_length(tokenizer)
    texts: dict[int, Text] = {}
    columns = answers.select("question_id", "variant", "text")
    for row, (question_id, variant, answer) in enumerate(columns.iter_rows()):
        question, ids = known[question_id, variant], answer_ids(tokenizer, answer)
        if not ids:
            continue
        prompt = render(tokenizer, question.prompt, question.system).ids
        start, stop = len(prompt), len(prompt) + len(ids)
        spans = ((start, stop), (start - header, stop + 1))
        whole = (*prompt, *ids, turn_end(tokenizer))
        texts[row] = Text(whole, spans, shared=start - header)
    if not texts:
        raise UserError(
            "every unsteered answer of this model is empty",
            where="the answers to the evaluation questions",
            found=f"{len(answers)} empty answers",
            hint="train it more gently, or drop it from organisms",
        )
    return list(texts.values()), {"rows": json.dumps(list(texts))}
