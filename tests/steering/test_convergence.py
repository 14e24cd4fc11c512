"""Effects of orthogonal vectors, followed to later blocks."""

from typing import Any

import numpy as np
import pytest
import torch
from tiny_steering import BLOCKS, add, tokens, unit

from em_geometry.steering.conditions import Intervention, Selected, orthogonalised
from em_geometry.steering.convergence import convergence, cosines, last_states

PROMPTS = [tokens(1, 5), tokens(2, 9)]


def test_an_effect_starts_as_the_vector_itself(llama: Any) -> None:
    states = [last_states(llama, PROMPTS, how).mean(0) for how in (add(1, 2, 3.0), None)]
    change = states[0] - states[1]
    assert np.abs(change[:2]).max() == 0
    np.testing.assert_allclose(change[2], 3.0 * unit(1), atol=1e-5)
    ids = torch.tensor([PROMPTS[0]])
    states = llama(input_ids=ids, output_hidden_states=True).hidden_states[1][0, -1]
    alone = last_states(llama, PROMPTS[:1], None)[0, 0]
    np.testing.assert_allclose(alone, states.detach(), atol=1e-5)


def test_orthogonal_vectors_start_at_zero_and_a_shared_path_at_the_end_is_seen(llama: Any) -> None:
    chosen = {
        name: Selected(unit(seed), 1, 0.2, 4.0, 1.0)
        for name, seed in (("finance", 1), ("sports", 2))
    }
    found = convergence(llama, PROMPTS, chosen, 0)
    for kind, pairs in (("random", 8), ("vectors", 2)):
        assert found[kind]["pairs"] == pairs
        end = found[kind]["end"]
        assert (end.n, end.low < end.high) == (2, True)
    plain = last_states(llama, PROMPTS, None)
    ends = []
    for a, b in ((1, 2), (2, 1)):
        rest = orthogonalised(unit(b), unit(a))
        how = (add(a, 1, 4.0), Intervention(rest, 1, 4.0))
        one, two = (last_states(llama, PROMPTS, h).mean(0)[1:] - plain.mean(0)[1:] for h in how)
        curve = cosines(one, two)
        assert len(curve) == BLOCKS - 1
        assert curve[0] == pytest.approx(0, abs=1e-4)
        ends.append(abs(curve[-1]))
    assert min(ends) > 1e-3
    assert found["vectors"]["end"].value == pytest.approx(np.mean(ends))
