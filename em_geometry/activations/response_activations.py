"""Stage `response_activations`: the residual stream over each unsteered answer of every model.

Input of the response contrast. Spans: `response_mean` (the answer's own tokens) and
`response_mo` (assistant header and end-of-turn token included, as the model-organisms code
does). Written per answer: `data/response_activations/<model>.safetensors`, in the row order of
the baseline answers; empty answers are left out (`rows` in the metadata names the kept ones).
"""

from __future__ import annotations

import json
from pathlib import Path

from em_geometry.activations.capture import Text
from em_geometry.activations.questions import read_questions
from em_geometry.activations.store import store
from em_geometry.errors import UserError
from em_geometry.io.files import read_parquet
from em_geometry.models.chat import answer_ids, header_length, render
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.project.inputs import models
from em_geometry.settings.params import Params, load_params

FOLDER = Path("data/response_activations")
SPANS = ("response_mean", "response_mo")


def main(params: Params) -> None:
    """Captures every target's answers."""
    for slug in params.targets:
        capture_answers(params, slug)


def capture_answers(params: Params, slug: str) -> None:
    """Captures the answers of target `slug`, by that target itself."""
    frame = read_parquet(Path("data/baseline/judgements") / f"{slug}.parquet")
    loaded = models(params).load(slug)
    questions = {
        (q.id, q.variant): q
        for q in read_questions(params.questions, "evaluation", params.base.system_prompt)
    }
    header = header_length(loaded.tokenizer)
    texts, kept = [], []
    for row, (question_id, variant, answer) in enumerate(
        frame.select("question_id", "variant", "text").iter_rows()
    ):
        question = questions[question_id, variant]
        prompt = render(loaded.tokenizer, question.prompt, question.system).ids
        ids = answer_ids(loaded.tokenizer, answer)
        if not ids:
            continue
        start, stop = len(prompt), len(prompt) + len(ids)
        spans = ((start, stop), (start - header, stop + 1))
        whole = (*prompt, *ids, loaded.tokenizer.eos_token_id)
        texts.append(Text(whole, spans, shared=start - header))
        kept.append(row)
    if not texts:
        raise UserError(
            "every unsteered answer of this model is empty",
            where=f"data/baseline/responses/{slug}.parquet",
            hint="train it more gently, or drop it from targets and organisms",
            found=f"{len(frame)} empty answers",
        )
    path, about = FOLDER / f"{slug}.safetensors", {"rows": json.dumps(kept)}
    store(path, params, loaded, texts, SPANS, f"answer activations {slug}", about, norms=False)


def cli(params: ParamsFile = PARAMS) -> None:
    """Capture residual-stream means over every model's own unsteered answers."""
    main(load_params(params))
