"""Stage `downstream_convergence`: do orthogonal vectors come to act alike at later blocks?

METHOD.md: transfer. Each pair's second vector is made orthogonal to the first; both act on the base
at the first one's block. The cosine of their mean effects on the residual stream (last token of
benign prompts) starts at 0 and is followed to the last block, beside that of two random orthogonal
directions. Low cosine between vectors is no proof of separate mechanisms; this looks further down.
Intervals are of a bootstrap over prompts; the pairs share vectors and are not independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from em_geometry.activations.capture import Text, capture, padded
from em_geometry.activations.prompts import read_prompts
from em_geometry.hashing import stream_key
from em_geometry.io.files import write_metrics
from em_geometry.models.chat import render
from em_geometry.progress import Progress
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.project.inputs import models
from em_geometry.settings.params import BASE, Params, load_params
from em_geometry.steering.controls import orthogonalised, random_direction
from em_geometry.steering.hooks import Intervention, steered
from em_geometry.steering.selected import Selected, read_selected

METRICS = Path("metrics/downstream_convergence.json")
PROMPTS = 16  # benign ones; effects are means over them
RANDOM_PAIRS = 8  # of random directions
RANDOM = "random"
DRAWS = 1000  # of the bootstrap over prompts


def last_states(model: Any, prompts: Sequence[tuple[int, ...]], how: Intervention | None) -> Any:
    """Residual stream [prompts, blocks, width] at the last token, float64."""
    texts = [Text(ids, ((len(ids) - 1, len(ids)),)) for ids in prompts]
    with steered(model, [how] * len(texts)) as steering:
        steering.mask = padded(prompts, "right", model.device)[1].bool()
        means, _ = capture(model, texts)
    return means[:, 0].double().cpu().numpy()


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines of the last dimension of two arrays."""
    found: np.ndarray = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return found


def mean_abs(ends: np.ndarray, middles: np.ndarray, n: int) -> dict[str, Any]:
    """Mean absolute cosine over pairs, and its 95 % interval over prompts.

    Args:
        ends: cosines at the last block [1 + draws, pairs], those of all prompts first.
        middles: cosines in the middle [pairs].
        n: number of prompts.
    """
    means = np.abs(ends).mean(1)
    low, high = np.quantile(means[1:], [0.025, 0.975])
    end = {"value": float(means[0]), "low": float(low), "high": float(high), "n": n}
    return {"pairs": ends.shape[1], "middle": float(np.abs(middles).mean()), "end": end}


def convergence(
    model: Any, prompts: Sequence[tuple[int, ...]], selected: Mapping[str, Selected], seed: int
) -> dict[str, Any]:
    """Cosines at the start, in the middle and at the end, of every ordered pair and of chance."""
    plain = last_states(model, prompts, None)
    ordered = sorted(selected.values(), key=lambda s: s.coefficient)
    typical = ordered[len(ordered) // 2]
    width = len(typical.vector)
    pairs: dict[str, tuple[Selected, np.ndarray, float]] = {}
    for a, b in permutations(selected, 2):
        rest = orthogonalised(selected[b].vector, selected[a].vector)
        if rest is not None:
            pairs[f"{a}__{b}"] = (selected[a], rest, selected[b].coefficient)
    for k in range(RANDOM_PAIRS):
        one = random_direction(width, seed, f"convergence_{2 * k}")
        other = orthogonalised(random_direction(width, seed, f"convergence_{2 * k + 1}"), one)
        assert other is not None  # two random directions are never parallel
        chance = Selected(one, typical.layer, typical.dose, typical.coefficient, 1.0)
        pairs[f"{RANDOM}_{k}"] = (chance, other, typical.coefficient)
    n = len(prompts)
    random = np.random.Generator(np.random.Philox(key=stream_key(seed, "convergence")))
    draws = np.vstack([np.ones(n), random.multinomial(n, np.full(n, 1 / n), DRAWS)]) / n
    known: dict[int, np.ndarray] = {}
    found: dict[str, dict[str, Any]] = {}
    ends: dict[str, np.ndarray] = {}
    with Progress("downstream convergence", len(pairs), unit="pairs") as progress:
        for name, (first, rest, coefficient) in pairs.items():
            if id(first) not in known:
                how = Intervention(first.vector, first.layer, first.coefficient)
                known[id(first)] = last_states(model, prompts, how) - plain
            how = Intervention(rest, first.layer, coefficient)
            one, two = known[id(first)], last_states(model, prompts, how) - plain
            curve = cosines(one.mean(0)[first.layer :], two.mean(0)[first.layer :])
            ends[name] = cosines(draws @ one[:, -1], draws @ two[:, -1])
            found[name] = {
                "layer": first.layer,
                "start": float(curve[0]),
                "middle": float(curve[len(curve) // 2]),
                "end": float(curve[-1]),
            }
            progress.advance()
    result: dict[str, Any] = {"pair": found}
    for kind, chosen in (("random", True), ("vectors", False)):
        names = [k for k in found if k.startswith(RANDOM) == chosen]
        middles = np.array([found[k]["middle"] for k in names])
        result[kind] = (
            mean_abs(np.stack([ends[k] for k in names], axis=1), middles, n)
            if names
            else {"status": "undefined: one vector"}
        )
    return result


def main(params: Params) -> None:
    """Measures every pair on the base model."""
    loaded = models(params).load(BASE)
    neutral = [p for p in read_prompts(params.prompts) if p.kind == "neutral"]
    chosen = neutral[:: max(1, len(neutral) // PROMPTS)][:PROMPTS]  # spread over the topics
    system = params.base.system_prompt
    prompts = [render(loaded.tokenizer, p.prompt, system).ids for p in chosen]
    write_metrics(METRICS, convergence(loaded.model, prompts, read_selected(), params.run.seed))


def cli(params: ParamsFile = PARAMS) -> None:
    """Follow the effects of orthogonal vectors through the later blocks of the base model."""
    main(load_params(params))
