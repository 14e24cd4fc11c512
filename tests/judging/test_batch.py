"""The Batch API: against a double of it, stopped on the way, and by hand with files alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from em_geometry.errors import UserError
from em_geometry.io.journal import Journal
from em_geometry.judging import batch, batch_files, limits
from em_geometry.judging.batch import judge_batch
from em_geometry.judging.batch_files import read_results, request_lines, write_files
from em_geometry.judging.openai_judge import JOURNAL, OpenAIJudge
from tests.judging.double import Double, fraction
from tests.judging.test_openai_judge import check_complete, params, rows


@dataclass
class BatchDouble(Double):
    """Also files and batches.

    Attributes:
        polls: looks at a batch before it ends.
        lost_share: requests of a batch that end in its error file.
        ending: how batches end.
        broken: status of the next so many calls to files and batches.
    """

    polls: int = 1
    lost_share: float = 0.0
    ending: str = "completed"
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
            if made["polled"] >= self.polls:
                made["status"] = self.ending
            return made
        return {"object": "list", "data": list(self.batches.values()), "has_more": False}

    def create(self, request: dict[str, Any]) -> dict[str, Any]:
        """A batch whose results are ready at once, though its status says so only later."""
        results: dict[str, list[str]] = {"output": [], "error": []}
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
        self.batches[name] = made
        return made


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMGEOMETRY_JOURNAL", str(tmp_path / "journal"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(limits, "BACKOFF_S", 0.01)


@pytest.fixture
def journal() -> Iterator[Journal]:
    with Journal(JOURNAL) as opened:
        yield opened


def test_as_the_judge(journal: Journal, tmp_path: Path) -> None:
    prices = {"usd_per_million_input": 1000.0}
    with BatchDouble(polls=2) as double:
        judge = OpenAIJudge(params(double, **prices), journal)
        check_complete(judge, rows(20), judge_batch(judge, rows(20), tmp_path, 0.01))
        assert not double.judged()
        assert judge.budget.spent == pytest.approx(40 * 0.1)  # half of 200 tokens at 0.001 USD
        judge_batch(judge, rows(20), tmp_path, 0.01)
        judge.judge(rows(20))
        assert (len(double.batches), len(double.judged())) == (1, 0)


@pytest.mark.parametrize("moment", ["_submit", "_finish", "_collect"])
def test_stopped_and_run_again(
    moment: str, journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was running when it stopped, nothing is submitted twice."""
    with BatchDouble() as double, monkeypatch.context() as patch:
        real = getattr(batch._Batches, moment)

        async def stopped(self: Any, given: Any) -> Any:
            if moment == "_submit":
                await real(self, given)
            if moment == "_submit" or given:
                raise KeyboardInterrupt
            return await real(self, given)

        patch.setattr(batch._Batches, moment, stopped)
        judge = OpenAIJudge(params(double), journal)
        with pytest.raises(KeyboardInterrupt):
            judge_batch(judge, rows(5), tmp_path, 0.01)
        assert len(double.batches) == 1
        patch.undo()
        again = OpenAIJudge(params(double), journal)
        asked = rows(8)  # more than before: the rest goes into a second batch
        check_complete(again, asked, judge_batch(again, asked, tmp_path, 0.01))
        assert len(double.batches) == 2
        assert sum(len(t.splitlines()) for n, t in double.files.items() if n[:6] == "file-0") == 10


def test_lost_requests_are_api_errors_and_asked_again(journal: Journal, tmp_path: Path) -> None:
    with BatchDouble(lost_share=0.3) as double:
        judge = OpenAIJudge(params(double), journal)
        got = judge_batch(judge, rows(20), tmp_path, 0.01)
        lost = [j for j in got if "api_error" in j.status.values()]
        assert 0 < len(lost) < 20
        assert any("lost" in text for text in lost[0].raw.values())
        double.lost_share = 0.0
        check_complete(judge, rows(20), judge_batch(judge, rows(20), tmp_path, 0.01))


def test_failing_calls_are_repeated_and_make_one_batch(journal: Journal, tmp_path: Path) -> None:
    with BatchDouble() as double:
        judge = OpenAIJudge(params(double), journal)
        assert judge.mode == "logprob"
        double.broken = [500, 429, 500, 503, 500, 500]
        check_complete(judge, rows(5), judge_batch(judge, rows(5), tmp_path, 0.01))
        assert not double.broken
        assert len(double.batches) == 1


def test_a_rejected_batch_says_why(journal: Journal, tmp_path: Path) -> None:
    with BatchDouble(ending="failed") as double:
        judge = OpenAIJudge(params(double), journal)
        with pytest.raises(UserError, match="rejected a batch") as caught:
            judge_batch(judge, rows(5), tmp_path, 0.01)
        assert "bad line 3" in str(caught.value)


def test_an_endpoint_without_a_batch_api(journal: Journal, tmp_path: Path) -> None:
    with Double() as double:
        judge = OpenAIJudge(params(double), journal)
        with pytest.raises(UserError, match="does not exist"):
            judge_batch(judge, rows(5), tmp_path, 0.01)


def test_the_budget_holds(journal: Journal, tmp_path: Path) -> None:
    with BatchDouble() as double:
        settings = params(double, usd_per_million_input=1000.0, max_usd=1.0)
        with pytest.raises(UserError, match="budget is spent"):
            judge_batch(OpenAIJudge(settings, journal), rows(50), tmp_path, 0.01)
        assert not double.batches


def test_files_keep_to_the_limits(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_files, "MOST_REQUESTS", 4)
    with BatchDouble() as double:
        judge = OpenAIJudge(params(double), journal)
        units, _ = judge.scan(rows(5), "logprob")
        lines = list(request_lines(judge, units, "logprob"))
        paths = write_files(tmp_path, lines)
        assert [len(p.read_text().splitlines()) for p in paths] == [4, 4, 2]
        assert [json.loads(x)["custom_id"] for x in lines] == [unit.key for unit in units]
        monkeypatch.setattr(batch_files, "MOST_BYTES", 2 * len(lines[0]) + 100)
        assert max(p.stat().st_size for p in write_files(tmp_path, lines)) < 2 * len(lines[0]) + 100
        check_complete(judge, rows(5), judge_batch(judge, rows(5), tmp_path, 0.01))
        assert len(double.batches) == 5


@pytest.mark.parametrize("line", ["not json", "[]", '{"response": {}}', "3"])
def test_a_file_that_is_no_result(line: str) -> None:
    with pytest.raises(UserError, match="not a result of a batch") as caught:
        read_results("\n" + line, "logprob", "output.jsonl")
    assert "output.jsonl, line 2" in str(caught.value)


def test_results_with_errors_of_all_kinds() -> None:
    lines = [
        {"custom_id": "a", "response": None, "error": {"code": "expired", "message": "too late"}},
        {"custom_id": "b", "response": {"status_code": 200, "body": {"choices": []}}},
        {"custom_id": "c", "response": {"status_code": 400, "body": None}, "error": None},
    ]
    replies, failures = read_results("\n".join(map(json.dumps, lines)), "logprob", "x")
    assert not replies
    assert "too late" in failures["a"]
    assert "no chat completion" in failures["b"]
    assert "400" in failures["c"]


def test_by_hand_with_the_command_line(tmp_path: Path) -> None:
    answers, results = tmp_path / "answers.parquet", tmp_path / "output.jsonl"
    asked = rows(6)
    pl.DataFrame(
        [(r.question, r.answer) for r in asked], ["question", "text"], orient="row"
    ).write_parquet(answers)
    with BatchDouble() as double:
        settings = params(double)
        profile = (Path(__file__).parents[2] / "profiles" / "smol.yaml").read_text()
        head, _, rest = profile.partition("\njudging:\n")
        tail = rest[re.search(r"^\S", rest, re.MULTILINE).start() :]  # type: ignore[union-attr]
        judging = json.dumps(settings.model_dump())
        (tmp_path / "params.yaml").write_text(f"{head}\njudging: {judging}\n{tail}")
        given = ["--params", str(tmp_path / "params.yaml")]
        run = CliRunner().invoke
        wrote = run(batch.app, ["write", str(answers), str(tmp_path / "out"), *given])
        assert wrote.exit_code == 0, wrote.output
        requests = (tmp_path / "out" / "batch-0.jsonl").read_text()
        double.files["mine"] = requests
        double.create({"input_file_id": "mine"})
        results.write_text(double.files["output-batch-0"])
        assert "12 replies kept, 0" in run(batch.app, ["read", str(results), *given]).output
        done = run(batch.app, ["run", str(answers), *given])
        assert "6 of 6 answers judged" in done.output
        assert "file not found" in run(batch.app, ["read", "nowhere.jsonl", *given]).output
    with Journal(JOURNAL) as journal:
        judge = OpenAIJudge(settings, journal)
        check_complete(judge, asked, judge.judge(asked))
