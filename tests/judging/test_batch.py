"""The Batch API: against a double of it, and stopped on the way."""

import json
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from em_geometry.errors import UserError
from em_geometry.io.journal import Journal
from em_geometry.judging import batch
from em_geometry.judging.batch import judge_batch
from em_geometry.judging.batch_files import read_results
from em_geometry.judging.openai_judge import JOURNAL, OpenAIJudge
from em_geometry.project import rejudge
from em_geometry.project.command import application
from tests.judging.double import Double, fraction
from tests.judging.test_openai_judge import check_complete, params, rows


@dataclass
class BatchDouble(Double):
    """Also files and batches.

    Attributes:
        polls: looks at a batch before it ends.
        lost_share: requests of a batch that end in its error file.
        ending: how batches end.
        most: bytes of requests that the account's queue takes, else `limit_says`.
        broken: status of the next so many calls to files and batches.
    """

    polls: int = 1
    lost_share: float = 0.0
    ending: str = "completed"
    most: float = math.inf
    limit_says: str = "Enqueued token limit reached for m. Limit: 2,000 enqueued tokens."
    broken: list[int] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)

    def other(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        made = path == "/v1/batches" and method == "POST"
        answer = self.answer(method, path, body)
        if self.broken and (made or method == "GET"):  # what was asked for is done all the same
            return self.broken.pop(), {"error": {"message": "later"}}
        return 200, answer

    def answer(self, method: str, path: str, body: bytes) -> Any:
        if method == "POST" and path == "/v1/files":
            name = f"file-{len(self.files)}"
            content = re.search(rb'filename="[^"]*"\r\n.*?\r\n\r\n(.*?)\r\n--', body, re.DOTALL)
            assert content
            self.files[name] = content.group(1).decode()
            return {"id": name, "object": "file"}
        if method == "POST":
            return self.create(json.loads(body))
        if path.endswith("/content"):
            return self.files[path.split("/")[3]].encode()
        if path.startswith("/v1/batches/"):
            made = self.batches[path.split("/")[3]]
            made["polled"] += 1
            if made["polled"] >= self.polls and made["status"] == "in_progress":
                made["status"] = self.ending
            return made
        return {"object": "list", "data": list(self.batches.values()), "has_more": False}

    def create(self, request: dict[str, Any]) -> dict[str, Any]:
        """A batch whose results are ready at once, though its status says so only later."""
        results: dict[str, list[str]] = {"output": [], "error": []}
        busy = [b["input_file_id"] for b in self.batches.values() if b["status"] == "in_progress"]
        enqueued = sum(len(self.files[name]) for name in [*busy, request["input_file_id"]])
        for line in self.files[request["input_file_id"]].splitlines():
            asked = json.loads(line)
            lost = fraction(asked["custom_id"], len(self.batches)) < self.lost_share
            said = {"error": {"message": "lost"}} if lost else self.reply(asked["body"])
            response = {"status_code": 500 if lost else 200, "body": said}
            result = {"custom_id": asked["custom_id"], "response": response, "error": None}
            results["error" if lost else "output"].append(json.dumps(result))
        name = f"batch-{len(self.batches)}"
        made = request | {"id": name, "object": "batch", "status": "in_progress", "polled": 0}
        for kind, lines in results.items():
            made[f"{kind}_file_id"] = f"{kind}-{name}" if lines else None
            self.files[f"{kind}-{name}"] = "\n".join(lines)
        made["errors"] = {"data": [{"message": "bad line 3"}]}
        if enqueued > self.most:
            made |= {"status": "failed", "errors": {"data": [{"message": self.limit_says}]}}
        self.batches[name] = made
        return made


def test_as_the_judge(journal: Journal) -> None:
    prices = {"usd_per_million_input": 1000.0}
    with BatchDouble(polls=2) as double:
        judge = OpenAIJudge(params(double, **prices), journal)
        check_complete(judge, rows(20), judge_batch(judge, rows(20)))
        assert not double.judged()
        assert judge.budget.spent == pytest.approx(40 * 0.1)  # half of 200 tokens at 0.001 USD
        judge_batch(judge, rows(20))
        judge.judge(rows(20))
        assert (len(double.batches), len(double.judged())) == (1, 0)


@pytest.mark.parametrize("moment", ["_submit", "_look", "_collect"])
def test_stopped_and_run_again(
    moment: str, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was running when it stopped, nothing is submitted twice."""
    with BatchDouble() as double, monkeypatch.context() as patch:
        real = getattr(batch._Batches, moment)

        async def stopped(self: Any, *given: Any) -> Any:
            if moment == "_submit":
                await real(self, *given)
            raise KeyboardInterrupt

        patch.setattr(batch._Batches, moment, stopped)
        judge = OpenAIJudge(params(double), journal)
        with pytest.raises(KeyboardInterrupt):
            judge_batch(judge, rows(5))
        assert len(double.batches) == 1
        patch.undo()
        again = OpenAIJudge(params(double), journal)
        asked = rows(8)  # more than before: the rest goes into a second batch
        check_complete(again, asked, judge_batch(again, asked))
        assert len(double.batches) == 2
        assert sum(len(t.splitlines()) for n, t in double.files.items() if n[:6] == "file-0") == 10


def test_lost_requests_are_said_and_asked_again(journal: Journal) -> None:
    with BatchDouble(lost_share=0.3) as double:
        judge = OpenAIJudge(params(double), journal)
        got = judge_batch(judge, rows(20))
        lost = [j for j in got if "overloaded" in j.status.values()]
        assert 0 < len(lost) < 20
        assert any("lost" in text for text in lost[0].raw.values())
        double.lost_share = 0.0
        check_complete(judge, rows(20), judge_batch(judge, rows(20)))


@pytest.mark.parametrize("files", [1, 4])
def test_more_than_the_queue_takes_is_split_and_waits(
    files: int, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "MOST_REQUESTS", 40 // files)
    with BatchDouble(polls=2, most=20_000) as double:
        judge = OpenAIJudge(params(double), journal)
        check_complete(judge, rows(20), judge_batch(judge, rows(20)))
        done = [b for b in double.batches.values() if b["status"] == "completed"]
        ids = [i for b in done for i in re.findall("custom_id", double.files[b["input_file_id"]])]
        assert len(ids) == 40  # each once
        assert len(done) >= 4
    with BatchDouble(most=10) as double, pytest.raises(UserError, match="Enqueued token limit"):
        judge_batch(OpenAIJudge(params(double), journal), rows(1))


def test_an_expired_batch_keeps_what_it_has(journal: Journal) -> None:
    with BatchDouble(ending="expired") as double:
        judge = OpenAIJudge(params(double), journal)
        made = double.create

        def half(request: dict[str, Any]) -> dict[str, Any]:
            batch = made(request)
            lines = double.files["output-" + batch["id"]].splitlines()
            double.files["output-" + batch["id"]] = "\n".join(lines[:10])
            return batch

        double.create = half  # type: ignore[method-assign]
        got = judge_batch(judge, rows(20))
        states = Counter(s for j in got for s in j.status.values())
        assert states["overloaded"] == 30
        assert any("expired" in text for text in got[-1].raw.values())
        double.create = made  # type: ignore[method-assign]
        check_complete(judge, rows(20), judge_batch(judge, rows(20)))
        submitted = [text for name, text in double.files.items() if name.startswith("file-")]
        assert [len(text.splitlines()) for text in submitted] == [40, 30]


def test_failing_calls_are_repeated_and_make_one_batch(journal: Journal) -> None:
    with BatchDouble() as double:
        judge = OpenAIJudge(params(double), journal)
        double.broken = [500, 429, 500, 503, 500, 500]
        check_complete(judge, rows(5), judge_batch(judge, rows(5)))
        assert not double.broken
        assert len(double.batches) == 1


@pytest.mark.parametrize(
    ("double", "retries", "says"),
    [
        (BatchDouble(ending="failed"), 12, "(?s)rejected a batch.*bad line 3"),
        (BatchDouble(broken=[500] * 9), 1, "(?s)Batch API does not answer.*later"),
        (Double(), 12, "does not exist"),
    ],
    ids=["rejected", "down", "without a batch API"],
)
def test_what_goes_wrong_is_said(double: Double, retries: int, says: str, journal: Journal) -> None:
    with double, pytest.raises(UserError, match=says):
        judge_batch(OpenAIJudge(params(double, retries=retries), journal), rows(5))


def test_the_budget_holds(journal: Journal) -> None:
    with BatchDouble() as double:
        settings = params(double, usd_per_million_input=1000.0, max_usd=1.0)
        with pytest.raises(UserError, match="budget is spent"):
            judge_batch(OpenAIJudge(settings, journal), rows(50))
        assert not double.batches


@pytest.mark.parametrize(("limit", "most"), [("MOST_REQUESTS", 4), ("MOST_BYTES", 5000)])
def test_files_keep_to_the_limits(
    limit: str, most: int, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, limit, most)
    with BatchDouble() as double:
        judge = OpenAIJudge(params(double), journal)
        units, _ = judge.scan(rows(5))
        check_complete(judge, rows(5), judge_batch(judge, rows(5)))
    files = [text for name, text in double.files.items() if name.startswith("file-")]
    assert len(files) > 2
    lines = [line for text in files for line in text.splitlines()]
    assert [json.loads(line)["custom_id"] for line in lines] == [unit.key for unit in units]
    for text in files:
        assert (len(text.encode()) if limit == "MOST_BYTES" else len(text.splitlines())) <= most


@pytest.mark.parametrize("line", ["not json", "[]", '{"response": {}}', "3"])
def test_a_file_that_is_no_result(line: str) -> None:
    with pytest.raises(UserError, match="not a result of a batch") as caught:
        read_results("\n" + line, "logprob", "output.jsonl")
    assert "output.jsonl, line 2" in str(caught.value)


@pytest.mark.parametrize(
    ("response", "error", "said"),
    [
        (None, {"code": "expired", "message": "too late"}, "too late"),
        ({"status_code": 200, "body": {"choices": []}}, None, "no chat completion"),
        ({"status_code": 400, "body": None}, None, "status 400: no reason given"),
        # vLLM's: a text, and an object within an object
        ({"status_code": 400, "body": None}, "Not in stream mode", "Not in stream mode"),
        ({"status_code": 404, "body": None}, {"error": {"message": "No such model"}}, "No such"),
        ({"status_code": 400, "body": "bad request"}, None, "bad request"),
    ],
)
def test_a_result_with_an_error_of_any_kind_counts_as_failed(
    response: Any, error: Any, said: str
) -> None:
    line = json.dumps({"custom_id": "a", "response": response, "error": error})
    replies, failures, _ = read_results(line, "logprob", "x")
    assert not replies
    assert said in str(failures["a"])


@pytest.mark.parametrize("status", [{"status_code": "200"}, {"status_code": None}, {}])
@pytest.mark.parametrize("as_text", [False, True])
def test_a_good_reply_counts_however_its_status_is_given(
    status: dict[str, Any], as_text: bool
) -> None:
    body: Any = Double().reply({"model": "m", "messages": [{"content": "Q"}]})
    response = status | {"body": json.dumps(body) if as_text else body}
    line = json.dumps({"custom_id": "a", "response": response, "error": None})
    replies, failures, harm = read_results(line, "logprob", "x")
    assert (list(replies), failures, harm) == (["a"], {}, "")


def test_a_line_that_is_no_result_is_said_beside_others_that_are() -> None:
    good = json.dumps({"custom_id": "a", "response": None, "error": "too late"})
    _, failures, harm = read_results(f"{good}\nnot json\n\n3\n", "logprob", "output.jsonl")
    assert list(failures) == ["a"]
    assert harm == "output.jsonl, line 2 is no result (2 of 3 lines)"


def test_what_a_filter_withholds_in_a_batch_is_kept() -> None:
    error = {"message": "The response was filtered", "code": "content_filter"}
    response = {"status_code": 400, "body": {"error": error}}
    line = json.dumps({"custom_id": "a", "response": response, "error": None})
    replies, failures, _ = read_results(line, "logprob", "x")
    assert not failures
    assert replies["a"]["finish"] == "content_filter"


def test_the_command(tmp_path: Path, journal: Journal, smol: dict[str, Any]) -> None:
    answers, settings = tmp_path / "answers.parquet", tmp_path / "params.yaml"
    asked = [(row.question, row.answer) for row in rows(6)]
    pl.DataFrame(asked, ["question", "text"], orient="row").write_parquet(answers)
    journal.__exit__()  # the command opens it
    with BatchDouble() as double:
        smol["judging"] = params(double).model_dump()
        settings.write_text(yaml.safe_dump(smol, sort_keys=False), encoding="utf-8")
        app, given = application(rejudge.batch), ["--params", str(settings)]
        assert "6 of 6 answers judged" in CliRunner().invoke(app, [str(answers), *given]).output
        assert "file not found" in CliRunner().invoke(app, ["nowhere.parquet", *given]).output
        with Journal(JOURNAL) as opened:
            judge = OpenAIJudge(params(double), opened)
            check_complete(judge, rows(6), judge.judge(rows(6)))
