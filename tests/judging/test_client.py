"""Pace, waits, money and keys, without a server."""

import asyncio
import email.utils
import time

import pytest

from em_geometry.errors import UserError
from em_geometry.judging.client import (
    BACKOFF_S,
    DOUBLINGS,
    KEY_VARIABLE,
    Budget,
    Client,
    Gate,
    backoff,
    endpoint_name,
    estimate_tokens,
    retry_after,
)
from em_geometry.settings import Judging


def times(gate: Gate, tokens: list[int]) -> list[float]:
    """When requests that all want to start now are let through."""
    let_through: list[float] = []

    async def one(amount: int) -> None:
        await gate.enter(amount)
        let_through.append(time.monotonic())

    async def run() -> None:
        await asyncio.gather(*map(one, tokens))

    start = time.monotonic()
    asyncio.run(run())
    return [moment - start for moment in let_through]


@pytest.mark.parametrize(
    ("gate", "tokens", "waits"),
    [
        ((1200, None), [10] * 5, [0.0, 0.05, 0.1, 0.15, 0.2]),
        ((None, 60_000), [100, 100, 1], [0.0, 0.1, 0.2]),
        ((None, None), [1000] * 50, [0.0] * 50),
    ],
)
def test_requests_are_spread_evenly(
    gate: tuple[int | None, int | None], tokens: list[int], waits: list[float]
) -> None:
    for moment, wait in zip(times(Gate(*gate), tokens), waits, strict=True):
        assert wait - 0.002 <= moment < wait + 0.1


def test_a_hold_stops_all() -> None:
    gate = Gate(None, None)
    gate.hold(0.1)
    gate.hold(0.01)  # a shorter one does not shorten it
    assert times(gate, [1, 1])[0] >= 0.098


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.0),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "soon"}, 0.0),
        ({"retry-after-ms": "soon"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float) -> None:
    assert retry_after(headers) == seconds


def test_a_wait_lasts_to_a_date_and_grows_to_a_limit() -> None:
    then = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert 57 < retry_after({"retry-after": then}) <= 60
    for attempt in range(2000):
        assert 0.5 * BACKOFF_S <= backoff(attempt) <= BACKOFF_S * 2**DOUBLINGS


def test_budget_counts_what_is_in_flight() -> None:
    budget = Budget(Judging(max_usd=1.0, usd_per_million_output=1e6), spent=0.25)
    assert budget.cost(5, 2) == pytest.approx(2.0)
    refused = pytest.raises(UserError, match=r"budget is spent: 0\.2500 USD")
    with budget.holding(0.5), refused, budget.holding(0.5):
        pytest.fail("there is no room for both")
    with budget.holding(0.75):
        assert budget.spent == 0.25
    with pytest.raises(UserError, match="needs prices"):
        Budget(Judging(max_usd=1.0), spent=0.0)


def test_tokens_of_other_scripts_count_more() -> None:
    assert estimate_tokens("a" * 400) == 112
    assert estimate_tokens("я" * 400) > estimate_tokens("a" * 400)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.openai.com/v1", "api.openai.com/v1"),
        ("https://user:secret@host.example:8443/v1/?token=secret", "host.example:8443/v1"),
        ("http://127.0.0.1:8000/v1", "loopback/v1"),
        ("http://[::1]:1/v1", "loopback/v1"),
        ("http://localhost:9", "loopback"),
    ],
)
def test_endpoint_names_hold_no_secret_and_no_local_port(url: str, name: str) -> None:
    assert endpoint_name(url) == name


@pytest.mark.parametrize("bad", [None, "sk canary", "sk-canary\nX-Evil: 1", "sk-cänary"])
def test_a_missing_or_bad_key_names_the_variable_and_is_not_shown(
    bad: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    if bad:
        monkeypatch.setenv(KEY_VARIABLE, bad)
    with pytest.raises(UserError, match="no key") as caught:
        Client(Judging(model="judge", base_url="https://example.com/v1"))
    assert KEY_VARIABLE in str(caught.value)
    assert "nary" not in str(caught.value)


def test_no_model_is_named() -> None:
    with pytest.raises(UserError, match="no judge model"):
        Client(Judging(base_url="http://127.0.0.1:9/v1"))
