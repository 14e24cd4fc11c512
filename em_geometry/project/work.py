"""What a profile has to do: texts, tokens, answers and judgements, counted from its params.

Nothing heavier than numpy is imported, so that `benchmarks/gpu.py` can take it along.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from em_geometry.activations.prompts import read_prompts, read_questions
from em_geometry.models.chat import read_examples
from em_geometry.settings import Params
from em_geometry.steering.conditions import Selected
from em_geometry.steering.conditions import plan as conditions_of
from em_geometry.steering.pairs import KINDS, indices, read_pairs, unsteered
from em_geometry.steering.pairs import plan as trials_of

CHARACTERS = 4.0  # of English a token, where no tokenizer is at hand
TEMPLATE = 12  # tokens of a chat template around a prompt
JUDGE_PROMPT = 320  # tokens of a judge's instructions around question and answer
CONTRASTS = 10  # contrasts and spans that the layer sweep tries


@dataclass(frozen=True)
class Counts:
    """Work of a whole run, by kind; tokens of answers are the most that can be generated."""

    texts: int  # prompts and answers that activations are taken of
    answers: Mapping[str, int]
    trained_tokens: int  # of chats, an epoch each
    forward_tokens: int  # of the models that are measured
    pair_tokens: int  # of these, those of answer pairs
    generated_tokens: int
    judgements: int  # of one aspect each: requests, or passes of a model that reads
    judge_tokens: int  # read in all judgements, each of which writes one
    judge_usd: float  # of all judgements at most; 0 for a judge in process


def count(params: Params) -> Counts:
    """All work of a run, from the params."""
    asked = read_questions(params.questions, params.base.system_prompt)
    evaluation = len(asked)
    prompts, judging, targets = read_prompts(params.prompts), params.judging, len(params.targets)
    answers = {
        "baseline": len(params.answering()) * params.baseline.samples * evaluation,
        "steered": _steered(params) * evaluation,
    }
    total, new = sum(answers.values()), params.sampling.max_new_tokens
    system = len(params.base.system_prompt) / CHARACTERS + TEMPLATE
    question = system + float(np.mean([len(q.prompt) for q in asked])) / CHARACTERS
    read = targets * sum(len(p.prompt) / CHARACTERS + system for p in prompts)
    read += answers["baseline"] * (question + new) + total * question
    pairs, judgements = _pairs(params), total * len(judging.aspects)
    judged = round(judgements * (JUDGE_PROMPT + question + new))
    usd = judged * judging.usd_per_million_input + judgements * judging.usd_per_million_output
    return Counts(
        texts=targets * len(prompts) + answers["baseline"],
        answers=answers,
        trained_tokens=round(_trained(params, system)),
        forward_tokens=round(read + pairs),
        pair_tokens=round(pairs),
        generated_tokens=total * new,
        judgements=judgements,
        judge_tokens=judged,
        judge_usd=usd / 1e6 if judging.backend == "openai" else 0.0,
    )


def _trained(params: Params, system: float) -> float:
    """Tokens of the chats of all trainings; what is held out is read before and after."""
    total = 0.0
    for organism in (o for o in params.organisms.values() if o.source is None):
        chats = read_examples(Path(organism.data), organism.max_examples)
        asked = [e for exchanges in chats for e in exchanges]
        texts = sum((len(e.question) + len(e.answer)) / CHARACTERS + system for e in asked)
        total += params.recipes[organism.lab].epochs * texts
    return total


def _vectors(params: Params, target: str) -> dict[str, Selected]:
    """Vectors of no content, the target's own apart from the others."""
    own, other = (Selected(np.eye(2, dtype=np.float32)[i], 0, 0.1, 1.0, 1.0) for i in range(2))
    return {slug: own if slug == target else other for slug in params.slugs("organism")}


def _steered(params: Params) -> int:
    """Steered answers to one question, of all targets."""
    total, how = 0, (params.steering, params.named_pairs())
    for target in params.steered():
        plan = conditions_of(target, _vectors(params, target), *how)[0]
        total += sum(condition.samples for condition in plan)
    return total


def _pairs(params: Params) -> float:
    """Tokens of all answer pairs that are read: layer sweep, margins and checkpoints."""
    pairs, sweep = read_pairs(Path(params.margins.pairs)), params.layer_sweep
    texts = [len(p.question) + len(p.marked) + len(p.plain) for p in pairs]
    organisms, cells = len(params.slugs("organism")), len(sweep.layers) * len(sweep.doses)
    ways = cells * (organisms + sweep.random_directions)
    ways += len(sweep.doses) * organisms * CONTRASTS
    read = ways * len(indices(pairs, "misaligned", "choosing", sweep.pairs))
    for target in params.targets:
        trials = unsteered(pairs, KINDS if target in params.answering() else KINDS[:1])
        if target in params.margin_targets():
            vectors, named = _vectors(params, target), params.named_pairs()
            trials = trials_of(target, pairs, vectors, {}, params.margins, 0, named)
        read += sum(len(trial.pairs) for trial in trials)
    if params.monitoring.organisms:
        from em_geometry.monitoring.detection import benign, unmeasured

        if not unmeasured(params.monitoring, params.training, params.organisms):
            trainings = len(params.monitoring.organisms) + len(benign(params.organisms))
            some = indices(pairs, "misaligned", "reporting", params.margins.other_pairs)
            read += trainings * len(params.training.checkpoints) * len(some)
    return read * (float(np.mean(texts)) / CHARACTERS + TEMPLATE)
