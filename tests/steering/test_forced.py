"""Given answers read behind their prompts, against a direct computation."""

from typing import Any

import torch
from tiny_steering import tokens

from em_geometry.steering.reading import forced

TEXTS = [(tokens(1, 9), 5), (tokens(2, 12), 10), (tokens(3, 7), 2)]  # ids, start of the answer


def test_log_probabilities_of_answers_are_those_of_a_single_pass(llama: Any) -> None:
    mask, logs = forced(llama, [(ids[:start], ids[start:]) for ids, start in TEXTS])
    assert mask.sum(-1).tolist() == [4, 2, 5]
    for found, (ids, start) in zip(logs, TEXTS, strict=True):
        with torch.no_grad():
            tables = llama(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = tables[torch.arange(start - 1, len(ids) - 1), torch.tensor(ids[start:])]
        torch.testing.assert_close(found[: len(expected)], expected, rtol=1e-4, atol=1e-4)
