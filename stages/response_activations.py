"""Stage `response_activations`: every model's residual stream over its own unsteered answers."""

from __future__ import annotations

from em_geometry.activations.questions import read_questions
from em_geometry.activations.store import ANSWER_SPANS, answer_texts, store
from em_geometry.io.files import read_parquet
from em_geometry.project import paths
from em_geometry.project.command import PARAMS, ParamsFile, run
from em_geometry.project.inputs import models
from em_geometry.settings import Params, load_params


def main(params: Params) -> None:
    """Captures every target's answers: data/response_activations/<model>.safetensors."""
    known = models(params)
    questions = read_questions(params.questions, "evaluation", known.system_prompt)
    for slug in params.targets:
        loaded = known.load(slug)
        answers = read_parquet(paths.BASELINE_JUDGEMENTS / f"{slug}.parquet")
        texts, rows = answer_texts(answers, questions, loaded.tokenizer)
        store(
            paths.RESPONSE_ACTIVATIONS / f"{slug}.safetensors",
            known,
            loaded,
            texts,
            ANSWER_SPANS,
            params.activations.batch_size,
            f"answer activations {slug}",
            rows,
            norms=False,
            workers=params.workers,
        )


def cli(params: ParamsFile = PARAMS) -> None:
    """Capture residual-stream means over every model's own unsteered answers."""
    main(load_params(params))


if __name__ == "__main__":
    run(cli)
