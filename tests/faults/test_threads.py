"""The number of threads is the params', not the machine's: it decides the last bits."""

from __future__ import annotations

import pytest

from em_geometry.models.load import setup_torch
from em_geometry.settings import Params


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_those_of_the_params(tiny_params: Params, threads: int) -> None:
    import torch

    before = torch.get_num_threads()
    run = tiny_params.run.model_copy(update={"threads": threads})
    try:
        setup_torch(run)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
