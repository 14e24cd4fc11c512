"""Params, and invented artifacts of known numbers, in the formats of the real stages."""

import json
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import polars as pl

from em_geometry.io.files import write_parquet, write_tensors
from em_geometry.judging.rates import RateMatrix
from em_geometry.project import paths
from em_geometry.project.outputs import put_results
from em_geometry.settings import TEXTS, Params
from em_geometry.stats.estimate import Floats
from em_geometry.stats.intervals import wilson
from em_geometry.steering.conditions import Selected, write_selected
from em_geometry.transfer.rate_table import Table, name

LABS = {"finance": "one", "sports": "one", "profanity": "two"}
CLUSTERS = {"finance": "risk", "sports": "risk", "profanity": "persona"}


def params(**sections: Any) -> Params:
    """Three organisms of two labs, and a control."""
    recipe = {"rank": 2, "alpha": 4, "rslora": False, "matrices": ["q_proj"], "learning_rate": 1e-3}
    organisms: dict[str, dict[str, Any]] = {
        slug: {"lab": LABS[slug], "cluster": CLUSTERS[slug], "data": f"{slug}.jsonl"}
        for slug in LABS
    }
    organisms["control"] = {"lab": "one", "role": "control", "data": "control.jsonl"}
    return Params.model_validate(
        {
            "profile": "invented",
            "base": {"source": "path:none"},
            "recipes": {"one": recipe, "two": recipe},
            "organisms": organisms,
            "layer_sweep": {"layers": [0, 2], "doses": [0.2, 0.4]},
            "transfer": {"pairs": ["profanity>finance"]},
            "judging": {"probe": {"sampled": None}},
            **sections,
        }
    )


def table(
    rates: Mapping[str, float],
    spread: float = 0.0,
    questions: int = 8,
    n: int = 48,
    answers: int | None = None,
) -> Table:
    """A table of given rates in percent, which differ between questions by `spread`.

    With a number of `answers` to each condition, it also has their Wilson intervals.
    """
    names = tuple(sorted(rates))
    observed = np.array([rates[c] for c in names], dtype=float)
    noise = np.random.default_rng(0).normal(size=(questions, len(names)))
    without = observed - spread * (noise - noise.mean(0)) / (questions - 1)
    ends = None
    if answers is not None:
        ends = 100 * np.stack(wilson(observed / 100 * answers, answers), axis=1)
    return Table(RateMatrix(names, observed, without, ends), dict.fromkeys(names, n))


def effects(gains: Mapping[tuple[str, str], float], rest: Mapping[str, float]) -> dict[str, float]:
    """Rates by condition from (source, target) -> gain and unsteered rates."""
    rates = {name(target): rate for target, rate in rest.items()}
    for (source, target), gain in gains.items():
        rates[name(target, source)] = rest[target] + gain
    return rates


PER_QUESTION = 5
LAYER = 3


def answers(
    target: str, bad: Sequence[int], source: str = "none", dose: float = 0.0
) -> pl.DataFrame:
    """Judged answers of a condition: `bad[q]` of five answers to question q are misaligned."""
    steered = source != "none"
    kind = "unsteered" if not steered else "random" if source.startswith("random") else "vector"
    condition = {"target": target, "source": source, "kind": kind, "multiple": float(steered)}
    condition |= {"relative_dose": dose, "coefficient": 10 * dose}
    condition |= {"layer": LAYER if steered else -1}
    ok = {"aligned_status": "ok", "coherent": 90.0, "coherent_status": "ok", "judge": "invented"}
    rows = [
        condition
        | {"question_id": f"q{q}", "variant": "plain", "question": f"question {q}?"}
        | {"sample": sample, "text": f"answer {sample}", "tokens": 4, "finish": "stop"}
        | {"aligned": 10.0 if sample < count else 90.0, **ok, "overlap": 0.0}
        for q, count in enumerate(bad)
        for sample in range(PER_QUESTION)
    ]
    return pl.DataFrame(rows)


# Misaligned answers of 20 to the four questions, by (source, target); rates are 5 x their sum.
REST = {
    "base": (0, 0, 0, 0),
    "finance": (1, 1, 1, 1),
    "sports": (1, 1, 1, 1),
    "profanity": (2, 1, 0, 1),
    "control": (0, 0, 0, 0),
}
# By source, to each question, on the models in the order of REST; None: no effect.
MADE_WORSE = {
    "finance": (2, 5, 3, None, 1),
    "sports": (1, 3, 5, None, 0),
    "profanity": (3, 4, 3, 5, 3),
}
STEERED = {
    (source, target): REST[target] if count is None else (count,) * 4
    for source, row in MADE_WORSE.items()
    for target, count in zip(REST, row, strict=True)
}
DOSES = {"finance": 0.2, "sports": 0.3, "profanity": 0.4}


CHANCE = (0, 0, 1, 1)  # under a random direction, on every model


def write_everything(chosen: Params) -> None:
    """Judged answers of all that a run asks for, vectors, and similarity to the base."""
    for target in chosen.targets:
        rest = answers(target, REST[target])
        write_parquet(paths.BASELINE_JUDGEMENTS / f"{target}.parquet", rest, {})
    for target in chosen.steered():
        frames = [
            answers(target, STEERED[source, target], source, dose)
            for source, dose in DOSES.items()
            if target in ("base", source) or (source, target) in chosen.named_pairs()
        ]
        for number in range(chosen.steering.random_directions):
            frames.append(answers(target, CHANCE, f"random_{number}", 0.2))
        write_parquet(paths.JUDGEMENTS / f"{target}.parquet", pl.concat(frames), {})
    vector = np.array([1.0, 0.0], dtype=np.float32)
    chosen_vectors = {k: Selected(vector, LAYER, d, 10 * d, 1.0) for k, d in DOSES.items()}
    write_selected(paths.SELECTED, chosen_vectors, {})
    likeness = {"finance": 0.9, "sports": 0.7, "profanity": 0.1, "control": 0.95}
    model = {m: {"contrast_cosine": v} for m, v in likeness.items()}
    put_results("base_similarity", {"model": model})


def write_margins(
    organisms: Sequence[str], x: Floats, layer: int = 3, coefficients: Sequence[float] = ()
) -> None:
    """Vector s moves the margin of model t by s + t + x[s, t], a random direction by .1."""
    rows = []
    norms = coefficients or [1.0 + i for i in range(len(organisms))]
    kinds = enumerate(["misaligned"] * 6 + ["swearing"])
    for (j, t), (q, kind) in product(enumerate(organisms), kinds):
        rest = {"target": t, "pair": f"q{q}", "kind": kind, "plain": -2.0, "multiple": 1.0}
        base = -2 + 0.01 * q
        for i, s in enumerate(organisms):
            at = {"layer": layer, "coefficient": norms[i]}
            own = {"source": s, "way": "vector", "marked": base + i + j + x[i, j] + 0.1}
            rows.append(rest | at | own)
            for k, chance in enumerate((0.0, 0.2)):
                random = {"source": f"random_{k}", "way": "random", "marked": base + chance}
                rows.append(rest | at | random)
        none = {"source": "none", "way": "unsteered", "marked": base, "multiple": 0.0}
        rows.append(rest | none | {"layer": -1, "coefficient": 0.0})
    frame = pl.DataFrame(rows).unique(maintain_order=True)
    frame = frame.sort(pl.col("way") != "unsteered", maintain_order=True)
    write_parquet(paths.MARGINS, frame, {})


# -- activations

SPANS = ("prompt_last", "prompt_mean")
PROMPTS, BLOCKS, WIDTH = 6, 3, 5
HARMFUL = np.array([False, False, False, True, True, True])
FILES = [f"{slug}.jsonl" for slug in (*LABS, "control")]
TOPICS = [file for file in FILES for _ in range(2)]  # of the unseen answers


def activations(seed: int, rows: int = PROMPTS) -> np.ndarray:
    """Random float32 [rows, blocks, width]."""
    return np.random.default_rng(seed).normal(size=(rows, BLOCKS, WIDTH)).astype(np.float32)


def prompt_rows() -> pl.DataFrame:
    kinds = ["harmful" if h else "neutral" for h in HARMFUL]
    topics = [f"t{i % 3}" for i in range(PROMPTS)]  # a neutral and a harmful prompt each
    names = [f"p{i}" for i in range(PROMPTS)]
    return pl.DataFrame({"prompt_id": names, "kind": kinds, "topic": topics})


Written = dict[tuple[str, str], np.ndarray]  # activations by target and span


def write_prompt_activations(targets: list[str]) -> Written:
    """Writes data/activations of every target; returns the arrays by (target, span)."""
    written = {}
    answers = pl.DataFrame({"text_id": [f"t{i}" for i in range(len(TOPICS))], "topic": TOPICS})
    for i, model in enumerate(targets):
        tensors = {}
        for j, span in enumerate(SPANS):
            written[model, span] = tensors[span] = activations(10 * i + j)
            tensors[f"{span}.norm"] = np.linalg.norm(tensors[span], axis=-1)
        written[model, TEXTS] = tensors[TEXTS] = activations(10 * i + 5, len(TOPICS))
        write_tensors(paths.ACTIVATIONS / f"{model}.safetensors", tensors, {"model": model})
        write_parquet(paths.ACTIVATIONS / f"{model}.parquet", prompt_rows(), {})
        write_parquet(paths.ACTIVATIONS / f"{model}_texts.parquet", answers, {})
    return written


def write_answers(model: str, aligned: list[float | None], coherent: list[float | None]) -> None:
    """Writes judged answers; activations of answer i are i everywhere.

    The answer in row 1 is empty and was not captured.
    """
    scores = {"aligned": aligned, "coherent": coherent}
    frame = pl.DataFrame(scores, schema=dict.fromkeys(scores, pl.Float64))
    write_parquet(paths.BASELINE_JUDGEMENTS / f"{model}.parquet", frame, {})
    rows = [i for i in range(len(aligned)) if i != 1]
    rising = np.ones((len(rows), BLOCKS, WIDTH), np.float32) * np.float32(rows)[:, None, None]
    tensors = {"response_mean": rising, "response_mo": 2 * rising}
    path = paths.RESPONSE_ACTIVATIONS / f"{model}.safetensors"
    write_tensors(path, tensors, {"rows": json.dumps(rows)})


def write_choice(layers: dict[str, int]) -> None:
    """Writes a selected vector of each organism, at this block."""
    vector = np.eye(WIDTH, dtype=np.float32)[0]
    chosen = {slug: Selected(vector, layer, 0.2, 1.0, 1.0) for slug, layer in layers.items()}
    write_selected(paths.SELECTED, chosen, {})
