"""Waits, money and keys, without a server."""

import pytest

from em_geometry.errors import UserError
from em_geometry.judging.client import (
    KEY_VARIABLE,
    Budget,
    Client,
    endpoint_name,
    estimate_tokens,
    retry_after,
)
from em_geometry.settings import Judging


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
