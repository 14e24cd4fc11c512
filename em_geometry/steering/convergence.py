"""Do orthogonal vectors come to act alike at later blocks?

docs/method.md, transfer. Each pair's second vector is made orthogonal to the first; both act on the
base at the first one's block. The cosine of their mean effects on the residual stream (last token
of benign prompts) starts at 0 and is followed to the last block, beside that of two random
orthogonal directions. Low cosine between vectors is no proof of separate mechanisms; this looks
further down. Intervals are of a bootstrap over prompts; the pairs share vectors and are not
independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from em_geometry.activations.capture import Text, capture, padded
from em_geometry.hashing import stream_key
from em_geometry.io.results import Nested
from em_geometry.progress import Progress
from em_geometry.stats.estimate import Estimate
from em_geometry.steering.conditions import orthogonalised, random_direction, typical
from em_geometry.steering.hooks import Intervention, steering_rows
from em_geometry.steering.selected import Selected

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROMPTS = 16  # benign ones; effects are means over them
RANDOM_PAIRS = 8  # of random directions
RANDOM = "random"
DRAWS = 1000  # of the bootstrap over prompts

Floats = npt.NDArray[np.float64]


def convergence(
    model: PreTrainedModel,
    prompts: Sequence[tuple[int, ...]],
    selected: Mapping[str, Selected],
    seed: int,
) -> Nested:
    """Cosines at the start, in the middle and at the end, of every ordered pair and of chance."""
    plain = last_states(model, prompts, None)
    n = len(prompts)
    random = np.random.Generator(np.random.Philox(key=stream_key(seed, "convergence")))
    draws = np.vstack([np.ones(n), random.multinomial(n, np.full(n, 1 / n), DRAWS)]) / n
    known: dict[int, Floats] = {}
    pairs: dict[str, dict[str, float]] = {}
    ends: dict[str, Floats] = {}
    todo = pairs_of(selected, seed)
    with Progress("downstream convergence", len(todo), unit="pairs") as progress:
        for name, (first, rest, coefficient) in todo.items():
            if id(first) not in known:
                how = Intervention(first.vector, first.layer, first.coefficient)
                known[id(first)] = last_states(model, prompts, how) - plain
            how = Intervention(rest, first.layer, coefficient)
            one, two = known[id(first)], last_states(model, prompts, how) - plain
            curve = cosines(one.mean(0)[first.layer :], two.mean(0)[first.layer :])
            ends[name] = cosines(draws @ one[:, -1], draws @ two[:, -1])
            places = {"start": 0, "middle": len(curve) // 2, "end": -1}
            pairs[name] = {"layer": first.layer} | {k: float(curve[i]) for k, i in places.items()}
            progress.advance()
    result: dict[str, Any] = {"pair": pairs}
    for kind, of_chance in (("random", True), ("vectors", False)):
        names = [k for k in pairs if k.startswith(RANDOM) == of_chance]
        if not names:
            result[kind] = {"status": "undefined: one vector"}
            continue
        middle = float(np.abs([pairs[k]["middle"] for k in names]).mean())
        end = mean_abs(np.stack([ends[k] for k in names], axis=1), n)
        result[kind] = {"pairs": len(names), "middle": middle, "end": end}
    return result


def pairs_of(
    selected: Mapping[str, Selected], seed: int
) -> dict[str, tuple[Selected, npt.NDArray[np.float32], float]]:
    """By name: a vector, one orthogonal to it, and that one's coefficient; random pairs too."""
    usual = typical(selected)
    width = len(usual.vector)
    pairs: dict[str, tuple[Selected, npt.NDArray[np.float32], float]] = {}
    for a, b in permutations(selected, 2):
        rest = orthogonalised(selected[b].vector, selected[a].vector)
        if rest is not None:
            pairs[f"{a}__{b}"] = (selected[a], rest, selected[b].coefficient)
    for k in range(RANDOM_PAIRS):
        one = random_direction(width, seed, f"convergence_{2 * k}")
        other = orthogonalised(random_direction(width, seed, f"convergence_{2 * k + 1}"), one)
        assert other is not None  # two random directions are never parallel
        chance = Selected(one, usual.layer, usual.dose, usual.coefficient, 1.0)
        pairs[f"{RANDOM}_{k}"] = (chance, other, usual.coefficient)
    return pairs


def last_states(
    model: PreTrainedModel, prompts: Sequence[tuple[int, ...]], how: Intervention | None
) -> Floats:
    """Residual stream [prompts, blocks, width] at the last token."""
    texts = [Text(ids, ((len(ids) - 1, len(ids)),)) for ids in prompts]
    with steering_rows(model, [how] * len(texts)) as steering:
        steering.mask = padded(prompts, "right", model.device)[1].bool()
        means, _ = capture(model, texts)
    states: Floats = means[:, 0].double().cpu().numpy()
    return states


def cosines(a: Floats, b: Floats) -> Floats:
    """Cosines of the last dimension of two arrays."""
    found: Floats = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return found


def mean_abs(ends: Floats, n: int) -> Estimate:
    """Mean absolute cosine over pairs, and its 95 % interval over prompts.

    Args:
        ends: cosines at the last block [1 + draws, pairs], those of all prompts first.
        n: number of prompts.
    """
    means = np.abs(ends).mean(1)
    low, high = np.quantile(means[1:], [0.025, 0.975])
    return Estimate(float(means[0]), float(low), float(high), n)
