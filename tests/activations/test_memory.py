"""Activations go into their file as they come: memory does not grow with the number of prompts."""

import pytest

from benchmarks import memory


@pytest.mark.faults
def test_four_thousand_prompts_need_the_memory_of_one_thousand() -> None:
    found = memory.main()
    assert found["file_mb_4000"] > 120  # so much would be seen if it were kept
    assert found["growth_mb"] < 50, found
