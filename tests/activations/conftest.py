"""Fixtures of the activation tests."""

from typing import Any

import pytest
from families import FAMILIES, our_hooks, random_model


@pytest.fixture(scope="session", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    return random_model(request.param)


@pytest.fixture(scope="session")
def llama() -> Any:
    return random_model("llama")


@pytest.fixture(autouse=True)
def no_hook_stays(request: pytest.FixtureRequest) -> Any:
    """Whatever a test does to a model, no forward hook may be left on it."""
    yield
    for name in ("model", "llama"):
        if name in request.fixturenames:
            assert not our_hooks(request.getfixturevalue(name))
