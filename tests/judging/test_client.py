"""Waits, money and keys, without a server."""

import time
from datetime import date
from email.utils import formatdate
from typing import Any

import pytest

from em_geometry.errors import UserError
from em_geometry.io.files import checked
from em_geometry.judging.client import (
    KEY_VARIABLE,
    Budget,
    Client,
    Endpoint,
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


def test_retry_after_a_date() -> None:
    later = formatdate(time.time() + 100, usegmt=True)
    assert retry_after({"retry-after": later}) == pytest.approx(100.0, abs=60)


def test_budget_counts_what_is_in_flight() -> None:
    budget = Budget(Judging(max_usd=1.0, usd_per_million_output=1e6), spent=0.25)
    assert budget.cost(5, 2) == pytest.approx(2.0)
    refused = pytest.raises(UserError, match=r"budget is spent: 0\.2500 USD")
    with budget.holding(0.5), refused, budget.holding(0.5):
        pytest.fail("there is no room for both")
    with budget.holding(0.75):
        assert budget.spent == 0.25


def test_tokens_of_other_scripts_count_more() -> None:
    assert estimate_tokens("a" * 400) == 112
    assert estimate_tokens("я" * 400) > estimate_tokens("a" * 400)


@pytest.mark.parametrize(
    ("given", "url", "name"),
    [
        (None, "https://api.openai.com/v1", "api.openai.com/v1"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1", "127.0.0.1:8000/v1"),
        ("http://[::1]:1/v1/", "http://[::1]:1/v1", "[::1]:1/v1"),
        ("localhost:18301/v1", "http://localhost:18301/v1", "localhost:18301/v1"),
        (" api.example.com/v1 ", "https://api.example.com/v1", "api.example.com/v1"),
        ("http://localhost:9", "http://localhost:9", "localhost:9"),
        ("https://x.example/v1/chat/completions", "https://x.example/v1", "x.example/v1"),
        (
            "https://me.azure.example/openai/deployments/j/chat/completions?api-version=2024-10-21",
            "https://me.azure.example/openai/deployments/j",
            "me.azure.example/openai/deployments/j",
        ),
    ],
)
def test_addresses_as_people_write_them(given: str | None, url: str, name: str) -> None:
    endpoint = Endpoint.of(given)
    assert (endpoint.url, endpoint.name) == (url, name)
    assert endpoint.query == ({"api-version": "2024-10-21"} if given and "?" in given else {})


def test_names_hold_no_secret() -> None:
    endpoint = Endpoint.of("https://user:secret@host.example:8443/v1/?token=secret")
    assert endpoint.name == "host.example:8443/v1"
    assert endpoint.shown == "https://host.example:8443/v1"


@pytest.mark.parametrize(
    "bad", ["ftp://host/v1", "http://", "http://host:port/v1", "http://u:secret@a b/v1?t=secret"]
)
def test_what_is_no_address_is_shown(bad: str) -> None:
    with pytest.raises(UserError, match="not the address of an endpoint") as caught:
        Endpoint.of(bad)
    assert bad[:4] in str(caught.value)
    assert "secret" not in str(caught.value)


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


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"backend": "openai"}, "an endpoint's judge needs a model"),
        ({"max_usd": 1.0}, "a budget needs prices"),
        ({"extra_body": {"since": date(2024, 1, 1)}}, "extra_body"),
        ({"extra_body": {"messages": []}}, "may not replace what the judge itself sends"),
    ],
)
def test_settings_that_no_judge_can_work_with(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        checked(Judging, settings, "params.yaml")
