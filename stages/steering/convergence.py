"""Stage `downstream_convergence`: do orthogonal vectors come to act alike at later blocks?

METHOD.md: transfer. Each pair's second vector is made orthogonal to the first; both act on the base
at the first one's block. The cosine of their mean effects on the residual stream (last token of
benign prompts) starts at 0 and is followed to the last block, beside that of two random orthogonal
directions. Low cosine between vectors is no proof of separate mechanisms; this looks further down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from stages.activations.capture import Text, capture, padded
from stages.activations.prompts import read_prompts
from stages.common.artifacts import write_metrics
from stages.common.command import PARAMS, ParamsFile, run
from stages.common.params import BASE, Params, load_params
from stages.common.progress import Progress
from stages.organisms.chat import render
from stages.organisms.load import load
from stages.steering.controls import orthogonalised, random_direction
from stages.steering.hooks import Intervention, steered
from stages.steering.selected import Selected, read_selected

METRICS = Path("metrics/downstream_convergence.json")
PROMPTS = 4  # benign ones; effects are means over them


def last_states(model: Any, prompts: Sequence[tuple[int, ...]], how: Intervention | None) -> Any:
    """Mean residual stream [blocks, width] at the last token, float64."""
    texts = [Text(ids, ((len(ids) - 1, len(ids)),)) for ids in prompts]
    with steered(model, [how] * len(texts)) as steering:
        steering.mask = padded(prompts, "right", model.device)[1].bool()
        means, _ = capture(model, texts)
    return means[:, 0].double().mean(0).cpu().numpy()


def cosines_by_block(first: np.ndarray, second: np.ndarray, layer: int) -> np.ndarray:
    """Cosines of two effects [blocks, width] from block `layer` on."""
    a, b = first[layer:], second[layer:]
    found: np.ndarray = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return found


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
    one = random_direction(width, seed, "convergence_0")
    other = orthogonalised(random_direction(width, seed, "convergence_1"), one)
    assert other is not None  # two random directions are never parallel
    chance = Selected(one, typical.layer, typical.dose, typical.coefficient, 1.0)
    pairs["random"] = (chance, other, typical.coefficient)
    known: dict[int, np.ndarray] = {}
    found: dict[str, Any] = {}
    with Progress("downstream convergence", len(pairs), unit="pairs") as progress:
        for name, (first, rest, coefficient) in pairs.items():
            if id(first) not in known:
                how = Intervention(first.vector, first.layer, first.coefficient)
                known[id(first)] = last_states(model, prompts, how) - plain
            how = Intervention(rest, first.layer, coefficient)
            effect = last_states(model, prompts, how) - plain
            curve = cosines_by_block(known[id(first)], effect, first.layer)
            found[name] = {
                "layer": first.layer,
                "start": float(curve[0]),
                "middle": float(curve[len(curve) // 2]),
                "end": float(curve[-1]),
            }
            progress.advance()
    ends = [abs(v["end"]) for k, v in found.items() if k != "random"]
    return {
        "pair": found,
        "mean_abs_end": float(np.mean(ends)) if ends else "undefined: one vector",
    }


def main(params: Params) -> None:
    """Measures every pair on the base model."""
    loaded = load(params, BASE)
    neutral = [p for p in read_prompts(params.prompts) if p.kind == "neutral"]
    chosen = neutral[:: max(1, len(neutral) // PROMPTS)][:PROMPTS]  # spread over the topics
    system = params.base.system_prompt
    prompts = [render(loaded.tokenizer, p.prompt, system).ids for p in chosen]
    write_metrics(METRICS, convergence(loaded.model, prompts, read_selected(), params.run.seed))


def cli(params: ParamsFile = PARAMS) -> None:
    """Follow the effects of orthogonal vectors through the later blocks of the base model."""
    main(load_params(params))


if __name__ == "__main__":
    run(cli)
