"""What stages take in: the objects that the params name, and the artifacts of earlier stages."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import polars as pl

from em_geometry.activations.prompts import Question, read_questions
from em_geometry.errors import UserError
from em_geometry.geometry.references import Evidence, Finetunes
from em_geometry.io.files import read_parquet, read_tensors
from em_geometry.judging.judge import Judge
from em_geometry.judging.rates import ASPECTS
from em_geometry.judging.score import Ngrams, active_judge, training_ngrams
from em_geometry.models.load import Models
from em_geometry.project import paths
from em_geometry.settings import BASE, TEXTS, Params
from em_geometry.steering.conditions import Selected, read_selected
from em_geometry.vectors import contrasts
from em_geometry.vectors.contrasts import Array, VectorTable, read_vector_table
from em_geometry.vectors.evidence import evidence


def models(params: Params) -> Models:
    """Where this project's models come from, and how they are loaded."""
    return Models(params.run, params.base, paths.BASE_MODEL, params.organisms, paths.ADAPTERS)


def judge(params: Params) -> AbstractContextManager[Judge]:
    """The judge that the params name, for the time of a `with`."""
    return active_judge(params.judging, models(params), paths.JUDGE_MODEL, params.workers)


def judged_folders(params: Params) -> dict[str, tuple[Path, list[str]]]:
    """Where judged answers lie, and of which models."""
    return {
        "baseline": (paths.BASELINE_JUDGEMENTS, params.answering()),
        "steered": (paths.JUDGEMENTS, params.steered()),
    }


def with_rejudged(
    path: Path, beside: Path, read: Callable[[Path], pl.DataFrame] = read_parquet
) -> pl.DataFrame:
    """Judged answers of a model, with what `em-geometry rejudge` has put beside these very ones."""
    judged = read(path)
    if beside.is_file():
        earlier = read_parquet(beside)
        if earlier.select("question", "text").equals(judged.select("question", "text")):
            return judged.with_columns(earlier.select(c for c in earlier.columns if "@" in c))
    return judged


def by_judge(params: Params) -> dict[str, pl.DataFrame]:
    """Judged answers (target, source, kind, aligned, coherent) by every judge that was asked."""
    parts: dict[str, list[pl.DataFrame]] = {}
    for which, (folder, slugs) in judged_folders(params).items():
        for slug in slugs:
            name = f"{slug}.parquet"
            frame = with_rejudged(folder / name, paths.REJUDGED / which / name)
            others = (c.partition("@")[2] for c in frame.columns if c.startswith("aligned@"))
            columns = {frame["judge"][0]: ""} | {other: f"@{other}" for other in others}
            for name, end in columns.items():
                scores = (pl.col(aspect + end).alias(aspect) for aspect in ASPECTS)
                parts.setdefault(name, []).append(frame.select("target", "source", "kind", *scores))
    return {name: pl.concat(frames) for name, frames in parts.items()}


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


def evidence_of(params: Params, read_as: str | None = None) -> tuple[Evidence, str, str]:
    """What lies behind the selected vectors, with their contrast (or another) and span."""
    organisms, random = params.organisms, [*params.random_adapters]
    slugs, repeats = (params.slugs("organism"), params.slugs("control")), params.repeats()
    family = Finetunes(*slugs, contrasts.recipe_controls(organisms), repeats, random)
    who = family, params.clusters(), {slug: o.data for slug, o in organisms.items()}
    spans, share = params.spans(), params.geometry.massive_share
    frames = prompts(), texts(), selected(params)
    return evidence(activations, *frames, *who, spans, share, read_as)
