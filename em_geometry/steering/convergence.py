"""Do orthogonal vectors come to act alike at later blocks?

docs/method.md, transfer. Each pair's second vector is made orthogonal to the first; both act on the
base at the first one's block. The cosine of their mean effects on the residual stream (last token
of benign prompts) starts at 0 and is followed to the last block, beside that of two random
orthogonal directions. Intervals are jackknifed over prompts; the pairs share vectors and are not
independent.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from em_geometry.activations.capture import capture
from em_geometry.activations.prompts import Text
from em_geometry.io.results import Nested
from em_geometry.models.chat import padded
from em_geometry.progress import Progress
from em_geometry.stats.estimate import Floats
from em_geometry.stats.intervals import jackknife
from em_geometry.steering.conditions import (
    Intervention,
    Selected,
    Vector,
    orthogonalised,
    random_direction,
    typical,
)
from em_geometry.steering.hooks import steering_rows

PROMPTS = 16  # benign ones; effects are means over them
RANDOM_PAIRS = 8  # of random directions


def convergence(
    model: PreTrainedModel,
    prompts: Sequence[tuple[int, ...]],
    selected: Mapping[str, Selected],
    seed: int,
) -> Nested:
    """Mean absolute cosine half-way and at the last block, over pairs of vectors and of chance."""
    plain = last_states(model, prompts, None)
    n = len(prompts)
    kept = np.vstack([np.ones(n), 1.0 - np.eye(n)])  # all prompts, then without each
    known: dict[int, Floats] = {}
    middles: dict[str, list[float]] = {"random": [], "vectors": []}
    ends: dict[str, list[Floats]] = {"random": [], "vectors": []}
    todo = list(pairs_of(selected, seed))
    with Progress("downstream convergence", len(todo), unit="pairs") as progress:
        for kind, first, rest, coefficient in todo:
            if id(first) not in known:
                how = Intervention(first.vector, first.layer, first.coefficient)
                known[id(first)] = last_states(model, prompts, how) - plain
            how = Intervention(rest, first.layer, coefficient)
            one, two = known[id(first)], last_states(model, prompts, how) - plain
            curve = cosines(one.mean(0)[first.layer :], two.mean(0)[first.layer :])
            middles[kind].append(float(curve[len(curve) // 2]))
            ends[kind].append(cosines(kept @ one[:, -1], kept @ two[:, -1]))
            progress.advance()
    result: dict[str, Any] = {}
    for kind, found in middles.items():
        if found:
            middle, sizes = (
                float(np.abs(found).mean()),
                np.abs(np.stack(ends[kind], axis=1)).mean(1),
            )
            end = jackknife(float(sizes[0]), sizes[1:])
            result[kind] = {"pairs": len(found), "middle": middle, "end": end}
        else:
            result[kind] = {"status": "undefined: one vector"}
    return result


def pairs_of(
    selected: Mapping[str, Selected], seed: int
) -> Iterator[tuple[str, Selected, Vector, float]]:
    """Kind of a pair, a vector, one orthogonal to it, and that one's coefficient."""
    for a, b in permutations(selected.values(), 2):
        rest = orthogonalised(b.vector, a.vector)
        if rest is not None:
            yield "vectors", a, rest, b.coefficient
    usual = typical(selected)
    for k in range(RANDOM_PAIRS):
        one, two = (
            random_direction(len(usual.vector), seed, f"convergence_{i}")
            for i in (2 * k, 2 * k + 1)
        )
        other = orthogonalised(two, one)
        assert other is not None  # two random directions are never parallel
        chance = Selected(one, usual.layer, usual.dose, usual.coefficient, 1.0)
        yield "random", chance, other, usual.coefficient


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
