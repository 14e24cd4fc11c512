"""What stages take in: the objects that the params name, and the artifacts of earlier stages."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import polars as pl

from em_geometry.activations.prompts import (
    Question,
    Text,
    prompt_texts,
    read_prompts,
    read_questions,
    unseen_chats,
    unseen_texts,
)
from em_geometry.errors import UserError
from em_geometry.io.files import read_parquet, read_tensors
from em_geometry.judging.judge import Judge
from em_geometry.judging.score import Ngrams, active_judge, training_ngrams
from em_geometry.models.load import Loaded, Models
from em_geometry.project import paths
from em_geometry.settings import BASE, TEXTS, Params
from em_geometry.steering.conditions import Selected, read_selected
from em_geometry.vectors.contrasts import Array, VectorTable, read_vector_table


def models(params: Params) -> Models:
    """Where this project's models come from, and how they are loaded."""
    return Models(params.run, params.base, paths.BASE_MODEL, params.organisms, paths.ADAPTERS)


def judge(params: Params) -> AbstractContextManager[Judge]:
    """The judge that the params name, for the time of a `with`."""
    return active_judge(params.judging, models(params), paths.JUDGE_MODEL, params.workers)


def known_texts(params: Params) -> Ngrams:
    """N-grams of all training texts, by which answers are checked for recital."""
    return training_ngrams(params.organisms.values())


def questions(params: Params) -> list[Question]:
    """The questions, with the run's system prompt.

    Raises:
        UserError: as `read_questions`; none in the active variants, or one without a text.
    """
    file, variants = params.questions.file, ", ".join(params.questions.variants)
    found = read_questions(params.questions, params.base.system_prompt)
    if not found:
        expected = f"some that are asked in {variants} (questions.variants)"
        raise UserError("no questions", where=file, found="none", expected=expected)
    if empty := [question.id for question in found if not question.prompt.strip()]:
        what, expected = "a question is empty", "a text"
        raise UserError(what, where=f"{file}: {empty[0]}", found="no words", expected=expected)
    return found


def selected(params: Params) -> dict[str, Selected]:
    """The vectors that the sweep chose, one for every organism at least."""
    return read_selected(paths.SELECTED, params.slugs("organism"))


def vector_table() -> VectorTable:
    """Every contrast of every model at every block."""
    return read_vector_table(paths.VECTORS, paths.VECTOR_INDEX)


def activations(model: str, span: str) -> Array:
    """Activations [prompts or texts, blocks, width] of a target, a repeat too, on a span."""
    return read_tensors(paths.ACTIVATIONS / f"{model}.safetensors")[0][span]


def prompts(model: str = BASE) -> pl.DataFrame:
    """The prompts of a target's activations: a row each, in order."""
    return read_parquet(paths.ACTIVATIONS / f"{model}.parquet")


def texts(model: str = BASE) -> pl.DataFrame:
    """The answers of a target's activations on `answer_mean`: a row each, topic its file."""
    return read_parquet(paths.ACTIVATIONS / f"{model}_texts.parquet")


def rows(span: str) -> pl.DataFrame:
    """What activations on a span are of, prompts or texts: a row each, with its topic."""
    return texts() if span == TEXTS else prompts()


def texts_of(params: Params, loaded: Loaded, span: str) -> Sequence[Text]:
    """What the models' activations on this span are of, in order."""
    chat = loaded.tokenizer, params.base.system_prompt
    if span != TEXTS:
        return prompt_texts(read_prompts(params.prompts), [span], *chat)[0]
    chats = unseen_chats(params.originals().values(), params.activations.texts)
    return unseen_texts(chats, *chat)[0]
