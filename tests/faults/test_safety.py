"""Nothing leaves the machine that was not asked to: no call, no key, no markup that acts."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from em_geometry.errors import redacted
from em_geometry.judging import client, openai_judge
from tests.faults.miniature import KEPT
from tests.faults.stage_runs import contents, finished, refused
from tests.judging.double import Double, answer

KEY, TOKEN = "sk-canary-5f2c9a7e1b", "hf_canary8d1e0c55"
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
PINNED = "0123456789abcdef0123456789abcdef01234567"
TARGETS = ("base", *KEPT)
SCRIPT = "<img src=x onerror=alert('owned')>"  # without a slash: a profile may be called so


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Hosts beyond this machine that anything tried to reach; nothing gets through."""
    seen: list[str] = []

    def guard(owner: Any, name: str, host_of: Any) -> None:
        real = getattr(owner, name)

        def guarded(*args: Any, **kwargs: Any) -> Any:
            host = host_of(*args)
            if host is not None and str(host) not in LOOPBACK:
                seen.append(str(host))
                raise OSError("the network is closed in this test")
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, guarded)

    def peer(sock: Any, *args: Any) -> Any:
        return args[-1][0] if sock.family in (socket.AF_INET, socket.AF_INET6) else None

    for name in ("connect", "connect_ex", "sendto"):
        guard(socket.socket, name, peer)
    guard(socket, "getaddrinfo", lambda host, *_: host)
    guard(socket, "gethostbyname", lambda host: host)
    yield seen


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def change(*path: str, **values: Any) -> None:
    params = section = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    for name in path:
        section = section[name]
    section.update(values)
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def holders(secret: str) -> list[str]:
    """Files of the folder, journal included, that hold the secret."""
    files = (path for path in Path().rglob("*") if path.is_file())
    return [str(path) for path in files if secret.encode() in path.read_bytes()]


@pytest.mark.faults
def test_all_stages_make_no_call_and_show_no_key(
    place: Path, keys: None, outside: list[str]
) -> None:
    change(profile=SCRIPT)
    stages = (
        "base_model", "organism", "activations", "probe_judge", "baseline_responses",
        "baseline_judgements", "response_activations", "vectors", "layer_sweep", "margins",
        "base_similarity", "responses", "judgements",
    )  # fmt: skip
    said = [finished(f"stages.{stage}") for stage in stages]
    answers = Path("data/judgements/finance.parquet")
    frame = pl.read_parquet(answers)
    frame.with_columns(text=pl.lit(SCRIPT), question=pl.lit(SCRIPT)).write_parquet(answers)
    Path("metrics/published.json").unlink()
    said += [finished(f"stages.{stage}") for stage in ("transfer", "claims", "report")]
    assert outside == []
    for secret in (KEY, TOKEN):
        assert holders(secret) == []
        assert all(secret not in result.output for result in said)
    page = Path("plots/report.html").read_text(encoding="utf-8")
    assert SCRIPT not in page
    assert page.count("&lt;img src=x onerror=alert") > 1
    assert not [name for name in contents() if name.endswith((".pkl", ".pt", ".bin", ".joblib"))]


def judge(double: Double, **values: Any) -> None:
    """Answers to judge, and params that name an endpoint."""
    change("judging", backend="openai", base_url=double.url, model="m", retries=0, timeout_s=30.0,
           **values)  # fmt: skip
    folder = Path("data/baseline/responses")
    for slug in TARGETS:
        frame = pl.DataFrame({"question": ["Why?", "How?"], "text": [f"So {slug}.", "Thus."]})
        frame.write_parquet(folder / f"{slug}.parquet")


class Later(Double):
    """Answers the start-up probe, and refuses what comes after it."""

    async def _chat(self, connection: Any, request: dict[str, Any]) -> Any:
        if request["messages"][0]["content"].startswith("Repeat"):
            return answer(200, self.reply(request))
        return await super()._chat(connection, request)


JUDGE = "stages.baseline_judgements"
SAID = f"wrong key {KEY}; Authorization: Bearer {KEY}"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BACKOFF_S", 0.01)
    monkeypatch.setattr(openai_judge, "GIVE_UP", 1000)  # every row gets its turn


@pytest.mark.parametrize("status", [400, 500])
def test_a_quoted_key_stays_out_of_the_scores(
    place: Path, keys: None, quick: None, status: int
) -> None:
    with Later(key=KEY, always=status, said=SAID) as double:
        judge(double)
        message = refused(JUDGE)  # an answer without a judgement ends the stage
        assert "answers have no judgement" in message
        judge(double, allow_errors=10)
        result = finished(JUDGE)
    assert KEY not in message + result.output
    frame = pl.read_parquet("data/baseline/judgements/base.parquet")
    assert set(frame["aligned_status"]) == {"refused" if status == 400 else "overloaded"}
    assert "<OPENAI_API_KEY>" in frame["aligned_raw"][0]
    assert holders(KEY) == []


def test_a_word_in_place_of_a_key_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that want no key are often given `none`."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    assert redacted('{"reasoning_effort": "none"}') == '{"reasoning_effort": "none"}'
    monkeypatch.setenv("OPENAI_API_KEY", "sk-12345")
    assert redacted("key sk-12345") == "key <OPENAI_API_KEY>"


def test_a_library_that_quotes_the_token(
    place: Path, keys: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As HTTP libraries do of a header that they cannot send."""
    import huggingface_hub

    def quotes(*_: Any, **__: Any) -> Any:
        raise ValueError(f"Illegal header value b'Bearer {TOKEN}'")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", quotes)
    change("base", source="hub:someone/model", revision=PINNED)
    message = refused("stages.base_model")
    assert "<HF_TOKEN>" in message
    assert TOKEN not in message


def test_an_endpoint_is_called_only_where_it_is_named(
    place: Path, keys: None, quick: None, outside: list[str]
) -> None:
    with Double(key=KEY) as double:
        judge(double)
        finished(JUDGE)
        assert outside == []
        change("judging", base_url=None, model="other")
    assert "api.openai.com" in refused(JUDGE)
    assert set(outside) == {"api.openai.com"}


def test_the_guard_sees_calls(outside: list[str]) -> None:
    with pytest.raises(OSError, match="closed"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(OSError, match="closed"):
        asyncio.run(asyncio.open_connection("example.org", 80))
    assert outside == ["192.0.2.1", "example.org"]


@pytest.mark.parametrize("offline", [True, False], ids=["HF_HUB_OFFLINE", "no network"])
@pytest.mark.parametrize(
    "command",
    [("stages.base_model",), ("stages.activations", "base"), ("stages.activations", "finance")],
    ids=" ".join,
)
def test_a_hub_model_without_network(
    place: Path, command: tuple[str, ...], offline: bool, outside: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(time, "sleep", lambda _: None)  # the hub's library tries again, later
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(place / "no cache"))
    source = {"source": "hub:someone/model", "revision": PINNED}
    change(*(("organisms", "finance") if command[-1] == "finance" else ("base",)), **source)
    if command[-1] == "base":
        record = {"hub": "someone/model", "revision": PINNED, "sha256": "0"}
        Path("data/models/base/record.json").write_text(json.dumps(record), encoding="utf-8")
    message = refused(*command)
    assert "someone/model" in message
    assert (set(outside) == set()) == offline
