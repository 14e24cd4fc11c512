"""Batch APIs with their servers' own ways, and what becomes of lost batches and files."""

import json
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from em_geometry.errors import UserError
from em_geometry.hashing import value_sha256
from em_geometry.io.journal import Journal
from em_geometry.judging import batch
from em_geometry.judging.batch import judge_batch
from em_geometry.judging.judge import Judgement
from em_geometry.judging.openai_judge import OpenAIJudge
from tests.judging.double import KEY, Double
from tests.judging.test_batch import BatchDouble
from tests.judging.test_openai_judge import check_complete, params, rows

Made = dict[str, Any]
HTML = b"<!doctype html><html>Open WebUI</html>"
DAY = 86_400


@dataclass
class Server(BatchDouble):
    """Does some things otherwise.

    Attributes:
        shown: a batch as it is shown.
        instead: an answer to "METHOD /path" and a body, in place of the usual one; None = usual.
        calls: how often each "METHOD /path" was asked. query: of the last one.
    """

    shown: Callable[[Made], Made] = dict
    instead: Callable[[str, bytes], tuple[Any, ...] | None] = lambda *_: None
    calls: Counter[str] = field(default_factory=Counter)
    query: dict[str, str] = field(default_factory=dict)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.query = dict(request.query)
        return await super()._serve(request)

    def other(self, method: str, path: str, body: bytes) -> tuple[Any, ...]:
        self.calls[f"{method} {path}"] += 1
        if given := self.instead(f"{method} {path}", body):
            return given
        status, answer = super().other(method, path, body)
        if isinstance(answer, dict) and "data" in answer:
            answer = answer | {"data": [self.shown(made) for made in answer["data"]]}
        elif isinstance(answer, dict) and "input_file_id" in answer:
            answer = self.shown(answer)
        return status, answer


def judged(double: Double, journal: Journal, count: int = 5) -> list[Judgement]:
    """By a new run."""
    return judge_batch(OpenAIJudge(params(double, retries=2), journal), rows(count))


def check_whole(double: Double, journal: Journal, count: int = 5) -> None:
    judge = OpenAIJudge(params(double), journal)
    check_complete(judge, rows(count), judge_batch(judge, rows(count)))


def lost(got: list[Judgement]) -> list[str]:
    """Why there is no reply, where there is none."""
    raws = [(j.raw[aspect], status) for j in got for aspect, status in j.status.items()]
    return [raw for raw, status in raws if status == "broken"]


def stop_while_waiting(double: Double, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    async def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(batch._Batches, "_look", stopped)
        judged(double, journal)


# -- what was submitted is found again


def no_metadata(made: Made) -> Made:
    return made | {"metadata": None}


@pytest.mark.parametrize("listed", [True, False])
def test_a_batch_without_its_tag_is_found_by_its_id(
    listed: bool, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = (200, {"object": "list", "data": None})
    with Server(shown=no_metadata) as double:
        stop_while_waiting(double, journal, monkeypatch)
        if not listed:
            double.instead = lambda call, _: empty if call == "GET /v1/batches" else None
        check_whole(double, journal)
        check_whole(double, journal)
        assert len(double.batches) == 1


@pytest.mark.parametrize("shown", [dict, no_metadata])
def test_a_batch_made_by_a_call_that_failed_is_found(
    shown: Callable[[Made], Made], journal: Journal
) -> None:
    def fails_once(call: str, body: bytes) -> tuple[int, Any] | None:
        if call != "POST /v1/batches" or double.batches:
            return None
        double.create(json.loads(body))["status"] = "completed"
        return 500, {"error": {"message": "later"}}

    with Server(shown=shown, instead=fails_once) as double:
        check_whole(double, journal)
        assert len(double.batches) == 1


def test_a_batch_that_is_gone_is_made_again(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(call: str, _: bytes) -> tuple[int, Any] | None:
        if call == "GET /v1/batches":
            return 200, {"object": "list", "data": []}
        return (404, {"error": {"message": "no"}}) if "batch-0" in call else None

    with Server() as double:
        stop_while_waiting(double, journal, monkeypatch)
        double.instead = gone
        check_whole(double, journal)
        assert len(double.batches) == 2
    assert capsys.readouterr().err.count("no longer has batch batch-0") == 1


def test_all_pages_of_the_list_are_read(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    def paged(call: str, _: bytes) -> tuple[int, Any] | None:
        names = [f"other-{i}" for i in range(3)] + [*double.batches]
        if call != "GET /v1/batches":
            return None
        name = names[names.index(double.query["after"]) + 1 if "after" in double.query else 0]
        made = double.batches.get(name, {"id": name, "status": "completed"})
        return 200, {"data": [made], "has_more": name != names[-1]}

    with Server(instead=paged) as double:
        stop_while_waiting(double, journal, monkeypatch)
        judge = OpenAIJudge(params(double), journal)
        tag = value_sha256([judge.name, judge.mode])
        journal.put({value_sha256(["batches made", tag]): []})  # the list alone knows it
        check_whole(double, journal)
        assert len(double.batches) == 1


def test_a_list_that_never_ends_is_read_once(journal: Journal) -> None:
    def endless(call: str, _: bytes) -> tuple[int, Any] | None:
        others = [{"id": "other", "status": "completed"}]
        same = {"object": "list", "data": [*double.batches.values()] or others}
        return (200, same) if call == "GET /v1/batches" else None

    with Server(instead=endless) as double:
        check_whole(double, journal)
        assert double.calls["GET /v1/batches"] <= 4


@pytest.mark.parametrize(
    ("call", "answer", "found"),
    [
        ("GET /v1/batches", HTML, "<html>Open WebUI"),
        (
            "GET /v1/batches",
            b'{"error": "Unexpected endpoint"}',
            '{"error": "Unexpected endpoint"}',
        ),
        ("GET /v1/batches", b'[{"id": "batch"}]', '[{"id": "batch"}]'),
        ("GET /v1/batches", b'{"object": "list", "data": ["batch"]}', "batch"),
        ("POST /v1/files", b'{"file_id": "file-1"}', "id=None"),
        ("POST /v1/batches", b'{"batch": 1}', '{"batch": 1}'),
    ],
)
def test_an_answer_that_is_no_batch_apis(
    call: str, answer: bytes, found: str, journal: Journal
) -> None:
    class Texts(Server):
        async def _serve(self, request: web.Request) -> web.StreamResponse:
            given = await super()._serve(request)
            if f"{request.method} {request.path}" == call:
                given.content_type = "text/html"
            return given

    with (
        Texts(instead=lambda asked, _: (200, answer) if asked == call else None) as double,
        pytest.raises(UserError, match="has no Batch API") as caught,
    ):
        judged(double, journal)
    assert f"{double.url}/batches" in str(caught.value)
    assert found in str(caught.value)


# -- how a batch ends


@pytest.mark.parametrize("status", ["COMPLETED", "Canceled"])
def test_a_status_may_be_spelled_otherwise(status: str, journal: Journal) -> None:
    with Server(ending=status) as double:
        check_whole(double, journal)


@pytest.mark.parametrize("due", ["expires_at", "created_at"])
def test_an_unknown_status_is_waited_for_until_the_batch_is_overdue(
    due: str, journal: Journal
) -> None:
    late = {due: time.time() - (1 if due == "created_at" else 0) * DAY - 3700}
    with Server(ending="succeeded", shown=lambda made: made | late) as double:
        check_whole(double, journal)  # its files are there
        double.shown = lambda made: made | late | dict.fromkeys(["output_file_id"])
        with pytest.raises(UserError, match=r"(?s)overdue.*batch-1.*status succeeded"):
            judged(double, journal, 8)
        double.shown = dict
        double.ending = "completed"
        check_whole(double, journal, 8)
        assert len(double.batches) == 3


@pytest.mark.parametrize(
    "errors", [["line 3 is bad"], "line 3 is bad", {"message": "line 3 is bad"}]
)
def test_why_a_batch_was_rejected_is_read_in_any_form(errors: Any, journal: Journal) -> None:
    with (
        Server(ending="failed", shown=lambda made: made | {"errors": errors}) as double,
        pytest.raises(UserError, match=r"(?s)rejected a batch.*line 3 is bad"),
    ):
        judged(double, journal)


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (413, b"<html><title>413 Request Entity Too Large</title></html>"),
        (413, b""),
        (400, b'{"error": {"message": "The file is too large: at most 1 MB"}}'),
    ],
)
def test_a_file_that_is_too_large_is_halved(status: int, says: bytes, journal: Journal) -> None:
    def limited(call: str, body: bytes) -> tuple[int, Any] | None:
        fits = call != "POST /v1/files" or body.count(b"custom_id") <= 4
        return None if fits else (status, says)

    with Server(instead=limited) as double:
        check_whole(double, journal)
        assert len(double.batches) > 2


# -- files of results


def content(call: str) -> bool:
    return call.endswith("/content")


def test_a_file_that_is_gone_is_said_and_asked_again(
    journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(call: str, _: bytes) -> tuple[int, Any] | None:
        return (404, {"error": {"message": "No such File"}}) if content(call) else None

    with Server(instead=gone) as double:
        whys = lost(judged(double, journal))
        assert len(whys) == 10
        said = "no longer has batch batch-0, file output-batch-0"
        assert all(said in why for why in whys)
        assert capsys.readouterr().err.count(said) == 1
        double.instead = lambda *_: None
        check_whole(double, journal)
        assert len(double.batches) == 2


def test_a_file_may_begin_with_a_mark_of_its_encoding(journal: Journal) -> None:
    def marked(call: str, _: bytes) -> tuple[int, Any] | None:
        name = call.split("/")[-2]
        return (200, b"\xef\xbb\xbf" + double.files[name].encode()) if content(call) else None

    with Server(instead=marked) as double:
        check_whole(double, journal)


def test_of_a_file_that_was_cut_the_whole_lines_are_kept(
    journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    def cut(call: str, _: bytes) -> tuple[int, Any] | None:
        name = call.split("/")[-2]
        return (200, double.files[name].encode()[:-50]) if content(call) else None

    with Server(instead=cut) as double:
        said = r"file output-batch-0, line 10 is no result \(1 of 10 lines\)"
        (why,) = lost(judged(double, journal))
        assert re.search(said, why)
        assert len(re.findall(said, capsys.readouterr().err)) == 1
        double.instead = lambda *_: None
        check_whole(double, journal)
        submitted = [text for name, text in double.files.items() if name.startswith("file-")]
        assert [len(text.splitlines()) for text in submitted] == [10, 1]


@dataclass
class Store(Double):
    """Keeps files by a path of their own, and what it was told."""

    key: None = None
    status: int = 200
    told: list[Any] = field(default_factory=list)
    kept: Callable[[str], str] = str

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.told.append((request.raw_path, str(request.headers)))
        text = self.kept(request.path.split("/")[-1])
        return web.Response(status=self.status, body=text.encode())


def test_a_file_in_a_store_elsewhere_is_fetched_without_the_key(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leads(call: str, _: bytes) -> tuple[Any, ...] | None:
        place = f"{place_of_store}/{call.split('/')[-2]}?sig=a%2Fb%3D"
        return (302, {}, {"location": place}) if content(call) else None

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Server(key=KEY, instead=leads) as double, Store() as store:
        place_of_store = f"http://127.0.0.1:{store.port}/s3"
        store.kept, store.status = double.files.__getitem__, 403
        with pytest.raises(UserError, match=r"(?s)does not answer.*/s3/output.*403") as caught:
            judged(double, journal)
        assert "sig=" not in str(caught.value)
        store.status = 200
        check_whole(double, journal)
        assert len(double.batches) == 1
        assert all(path.endswith("?sig=a%2Fb%3D") for path, _ in store.told)
        assert KEY not in str(store.told)
        place_of_store = "http://store.example/s3"
        with pytest.raises(UserError, match=r"(?s)without encryption.*store.example"):
            judged(double, journal, 8)
