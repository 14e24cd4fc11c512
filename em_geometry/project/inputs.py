"""What the params of a project say, made into the objects that the library takes."""

from __future__ import annotations

from contextlib import AbstractContextManager

from em_geometry.judging.judge import Judge
from em_geometry.judging.score import Ngrams, active_judge, training_ngrams
from em_geometry.models.load import Models
from em_geometry.project import paths
from em_geometry.settings import Params


def models(params: Params) -> Models:
    """Where this project's models come from, and how they are loaded."""
    return Models(params.run, params.base, paths.BASE_MODEL, params.organisms, paths.ADAPTERS)


def judge(params: Params) -> AbstractContextManager[Judge]:
    """The judge that the params name, for the time of a `with`."""
    return active_judge(params.judging, models(params), paths.JUDGE_MODEL, params.workers)


def known_texts(params: Params) -> Ngrams:
    """N-grams of all training texts, by which answers are checked for recital."""
    return training_ngrams(params.organisms.values())
