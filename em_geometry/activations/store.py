"""Activations as files: prompts and answers as texts with spans, captured straight into a file.

Only the batches in work are in memory: a thousand prompts and a million need the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from em_geometry.activations.capture import Text, capture_arrays, captured
from em_geometry.activations.prompts import ActivationPrompt
from em_geometry.activations.questions import Question
from em_geometry.engine import spread
from em_geometry.errors import UserError
from em_geometry.io.files import tensor_file
from em_geometry.models.chat import Prompt, answer_ids, header_length, render
from em_geometry.models.load import Loaded, Models
from em_geometry.settings import Workers

if TYPE_CHECKING:
    import polars as pl
    from transformers import PreTrainedTokenizerBase

LAYERS = "output of decoder block l, l = 0..L-1"
ANSWER_SPANS = ("response_mean", "response_mo")
LOCAL = Workers()


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
    columns = {
        "prompt_id": [p.id for p in prompts],
        "kind": [p.kind for p in prompts],
        "topic": [p.topic for p in prompts],
        "pair": [p.pair for p in prompts],
        "tokens": [len(text.ids) for text in texts],
    }
    return texts, pl.DataFrame(columns)


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
    texts: list[Text] = []
    kept: list[int] = []
    columns = answers.select("question_id", "variant", "text")
    for row, (question_id, variant, answer) in enumerate(columns.iter_rows()):
        question = known[question_id, variant]
        ids = answer_ids(tokenizer, answer)
        if not ids:
            continue
        prompt = render(tokenizer, question.prompt, question.system).ids
        start, stop = len(prompt), len(prompt) + len(ids)
        spans = ((start, stop), (start - header, stop + 1))
        whole = (*prompt, *ids, tokenizer.eos_token_id)
        texts.append(Text(whole, spans, shared=start - header))
        kept.append(row)
    if not texts:
        raise UserError(
            "every unsteered answer of this model is empty",
            where="the answers to the evaluation questions",
            found=f"{len(answers)} empty answers",
            hint="train it more gently, or drop it from targets and organisms",
        )
    return texts, {"rows": json.dumps(kept)}


def store(
    path: Path,
    models: Models,
    loaded: Loaded,
    texts: Sequence[Text],
    spans: Sequence[str],
    batch_size: int,
    label: str,
    metadata: Mapping[str, str] | None = None,
    norms: bool = True,
    workers: Workers = LOCAL,
) -> dict[str, str]:
    """Writes a tensor [texts, blocks, width] for each span (and norms); returns the metadata.

    Args:
        models: from which other workers load the target again.
        spans: names of each text's spans, in order.
        metadata: further entries.
        norms: also write `<span>.norm` [texts, blocks], mean length of the span's tokens.
    """
    about = {
        "model": loaded.slug,
        "model_sha256": loaded.sha256,
        "layers": LAYERS,
        "units": "residual stream, mean over the span's tokens",
        "dtype": "float32",
        **(metadata or {}),
    }
    over = spread(workers, models.run.threads, _worker, models, loaded.slug)
    config = loaded.model.config.get_text_config()
    shape = (len(texts), config.num_hidden_layers, config.hidden_size)
    shapes = dict.fromkeys(spans, shape) | {f"{s}.norm": shape[:2] for s in spans if norms}
    kinds = {name: (np.dtype(np.float32), shape) for name, shape in shapes.items()}
    with tensor_file(path, kinds, about) as put:
        for rows, means, lengths in captured(loaded.model, texts, batch_size, label, over):
            for i, span in enumerate(spans):
                put(span, rows, means[:, i])
                if norms:
                    put(f"{span}.norm", rows, lengths[:, i])
    return about


def _worker(models: Models, slug: str) -> Callable[[Sequence[Text]], Any]:
    """What a worker elsewhere does, with a model of its own."""
    return partial(capture_arrays, models.load(slug).model)
