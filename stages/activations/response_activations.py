"""Stage `response_activations`: the residual stream over each unsteered answer of every model.

Input of the response contrast. Spans: `response_mean` (the answer's own tokens) and
`response_mo` (assistant header and end-of-turn token included, as the model-organisms code
does). Written per answer: `data/response_activations/<model>.safetensors`, in the row order of
the baseline answers; empty answers are left out (`rows` in the metadata names the kept ones).
"""

from __future__ import annotations

import json
from pathlib import Path

from stages.activations.capture import Text
from stages.activations.questions import read_questions
from stages.activations.store import store
from stages.common.artifacts import read_parquet
from stages.common.command import PARAMS, ParamsFile, run
from stages.common.errors import UserError
from stages.common.params import Params, load_params
from stages.organisms.chat import answer_ids, header_length, render
from stages.organisms.load import load

FOLDER = Path("data/response_activations")
SPANS = ("response_mean", "response_mo")


def main(params: Params) -> None:
    """Captures every target's answers."""
    for slug in params.targets:
        capture_answers(params, slug)


def capture_answers(params: Params, slug: str) -> None:
    """Captures the answers of target `slug`, by that target itself."""
    frame = read_parquet(Path("data/baseline/judgements") / f"{slug}.parquet")
    loaded = load(params, slug)
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


if __name__ == "__main__":
    run(cli)
