"""The LLM judge against an endpoint that misbehaves."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from em_geometry.errors import UserError
from em_geometry.io.journal import Journal
from em_geometry.judging import openai_judge
from em_geometry.judging.client import KEY_VARIABLE
from em_geometry.judging.judge import Judgement, JudgeRow
from em_geometry.judging.openai_judge import OpenAIJudge
from em_geometry.settings import Judging
from tests.judging.double import FAULTS, KEY, Double, truth

PROMPTS = str(Path(__file__).parents[2] / "data" / "judge" / "prompts")


def params(double: Double, **changes: Any) -> Judging:
    settings = {"backend": "openai", "base_url": double.url, "model": "judge"}
    settings |= {"templates": PROMPTS, "concurrency": 16, "timeout_s": 0.5, "retries": 12}
    return Judging(**(settings | changes))


def rows(n: int) -> list[JudgeRow]:
    return [JudgeRow(f"Question {i % 7}?", f"Answer {i}.") for i in range(n)]


def expected(judge: OpenAIJudge, row: JudgeRow, aspect: str) -> tuple[float | None, str]:
    """Score and status from the double's own table, computed here in another way."""
    top = truth(judge.templates[aspect].render(row))
    numbers = [(int(t), p) for t, p in top if t.strip().isdigit() and int(t) <= 100]
    mass = sum(p for _, p in numbers)
    if mass >= 0.25:
        return sum(n * p for n, p in numbers) / mass, "ok"
    return None, {"REF": "refusal", "CODE": "code"}.get(top[0][0], "low_mass")


def check_complete(judge: OpenAIJudge, asked: list[JudgeRow], got: list[Judgement]) -> None:
    """Nothing lost and nothing invented."""
    assert len(got) == len(asked)
    for row, judgement in zip(asked, got, strict=True):
        for aspect in judge.templates:
            score, status = expected(judge, row, aspect)
            assert judgement.status[aspect] == status
            assert judgement.scores[aspect] == pytest.approx(score)


def stored(journal: Journal) -> int:
    """Replies in the journal; the one other record is that of the probe."""
    return int(journal._db.execute("SELECT count(*) FROM units").fetchone()[0]) - 1


@pytest.mark.parametrize("n", [100, pytest.param(1000, marks=pytest.mark.faults)])
def test_complete_and_order_independent_under_faults(n: int, journal: Journal) -> None:
    """Two aspects a row: 200 and 2,000 judgements."""
    asked = rows(n)
    with Double(fault_share=0.2) as double:
        judge = OpenAIJudge(params(double), journal)
        got = judge.judge(asked)
        check_complete(judge, asked, got)
        assert stored(journal) == 2 * n  # each exactly once
        assert set(double.injected) == set(FAULTS)
        sent = double.judged()
        assert len(sent) == 2 * n
        assert OpenAIJudge(params(double), journal).judge(asked) == got
        assert double.judged() == sent  # all of it from the journal
    with Double(fault_share=0.2) as double, Journal("other") as other:
        shuffled = random.Random(1).sample(asked, n)
        reordered = OpenAIJudge(params(double, concurrency=3), other).judge(shuffled)
    assert dict(zip(shuffled, reordered, strict=True)) == dict(zip(asked, got, strict=True))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_never_ends_has_its_own_status_and_is_not_stored(
    fault: str, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_kind = {"429": "overloaded", "500": "overloaded", "truncated": "broken", "empty": "broken"}
    status = of_kind.get(fault, "broken" if fault == "no_logprobs" else "unreachable")
    with Double() as double:
        judge = OpenAIJudge(params(double, retries=1, timeout_s=0.3), journal)
        assert judge.id.startswith(f"openai:judge@127.0.0.1:{double.port}/v1:logprob:")
        double.fault_share, double.faults = 1.0, (fault,)
        got = judge.judge(rows(2))
        for judgement in got:
            assert judgement.scores == {"aligned": None, "coherent": None}
            assert judgement.status == {"aligned": status, "coherent": status}
            assert json.loads(judgement.raw["aligned"])["error"]
        assert stored(journal) == 0
        double.fault_share = 0.0
        check_complete(judge, rows(2), judge.judge(rows(2)))


def test_concurrency_is_bounded_and_used_and_equal_rows_are_asked_about_once(
    journal: Journal,
) -> None:
    with Double(delay_s=0.05) as double:
        judge = OpenAIJudge(params(double, concurrency=8, timeout_s=5.0), journal)
        got = judge.judge(rows(30) * 2)
        assert got[:30] == got[30:]
        assert double.most_in_flight == 8
        assert set(double.judged().values()) == {1}


@pytest.mark.parametrize("kind", [{"logprobs": False}, {"logprobs": None}, {"split_digits": True}])
def test_text_mode_where_log_probabilities_are_no_use(
    kind: dict[str, Any], journal: Journal
) -> None:
    with Double(**kind) as double:
        judge = OpenAIJudge(params(double, text_samples=2), journal)
        got = judge.judge(rows(10))
        assert ":text-x2:" in judge.id
        assert set(double.judged().values()) == {1}
        assert len(double.judged()) == 40
    for row, judgement in zip(rows(10), got, strict=True):
        if not double.split_digits:
            token = truth(judge.templates["aligned"].render(row))[0][0]
            number = float(token) if token.isdigit() and int(token) <= 100 else None
            assert judgement.scores["aligned"] == number


def test_another_mode_than_before_is_said_and_more_samples_add_to_those_there(
    journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    with Double() as double:
        OpenAIJudge(params(double), journal).judge(rows(2))
        double.logprobs = False
        asked = double.judged()
        for samples in (1, 3):
            judge = OpenAIJudge(params(double, text_samples=samples), journal)
            judge.judge(rows(3))
            assert judge.mode == "text"
            assert sum((double.judged() - asked).values()) == 3 * 2 * samples
    assert "was used in logprob mode and now offers text mode" in capsys.readouterr().err


def test_journal_alone_is_enough(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is judged needs no endpoint and no key any more, whatever `low_mass` is then."""
    with Double(key=KEY) as double:
        monkeypatch.setenv(KEY_VARIABLE, KEY)
        settings = params(double)
        got = OpenAIJudge(settings, journal).judge(rows(20))
    monkeypatch.delenv(KEY_VARIABLE)
    assert OpenAIJudge(settings, journal).judge(rows(20)) == got
    strict = OpenAIJudge(settings.model_copy(update={"low_mass": 0.95}), journal).judge(rows(20))
    assert {j.status["aligned"] for j in strict} >= {"low_mass"}


def test_plan_sends_nothing_and_needs_no_key(journal: Journal) -> None:
    settings = {"base_url": "https://example.com/v1", "usd_per_million_output": 1e5}
    with Double() as double:
        plan = OpenAIJudge(params(double, **settings), journal).plan(rows(10))
        assert not double.attempts
    assert "assumed, not probed yet): 10 rows, 20 requests to send (0 in the journal)" in plan
    assert "at most 20 out, about 2.0000 USD" in plan


def test_budget_stops_cleanly_and_goes_on(journal: Journal) -> None:
    prices = {"usd_per_million_input": 1000.0, "usd_per_million_output": 1000.0}
    asked = rows(30)  # 60 requests of 201 tokens: 0.201 USD each
    with Double(delay_s=0.01) as double:
        with pytest.raises(UserError, match="budget is spent") as caught:
            OpenAIJudge(params(double, max_usd=4.0, concurrency=4, **prices), journal).judge(asked)
        assert "max_usd" in str(caught.value)
        sent = sum(double.judged().values())
        assert stored(journal) - 1 == sent  # nothing in flight is thrown away; one record: spent
        assert 10 <= sent <= 19
        with pytest.raises(UserError, match="budget is spent"):  # a restart has no new budget
            OpenAIJudge(params(double, max_usd=4.0, **prices), journal).judge(asked)
        assert sum(double.judged().values()) <= 19
        judge = OpenAIJudge(params(double, max_usd=40.0, **prices), journal)
        check_complete(judge, asked, judge.judge(asked))
        assert judge.budget.spent == pytest.approx(60 * 0.201)
        assert sum(double.judged().values()) == 60


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"always": 401}, "does not accept the key"),
        ({"always": 403}, "does not accept the key"),
        ({"always": 404}, "does not exist"),
        ({"always": 429, "code": "insufficient_quota"}, "no credit"),
        ({"always": 429, "headers": {"Retry-After": "7200"}}, "asks to wait 7200 s"),
    ],
)
def test_what_no_request_survives_stops_at_once(
    changes: dict[str, Any], what: str, journal: Journal
) -> None:
    with Double(**changes) as double:
        with pytest.raises(UserError, match=what):
            OpenAIJudge(params(double), journal).judge(rows(50))
        assert sum(double.attempts.values()) == 1


@pytest.mark.parametrize(
    ("status", "what", "most"),
    [(401, KEY_VARIABLE, 6), (500, "5 requests in a row", 11)],  # with those in flight
    ids=["key withdrawn", "down"],
)
def test_an_endpoint_that_goes_down_is_given_up(
    status: int, what: str, most: int, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_judge, "GIVE_UP", 5)
    with Double() as double:
        judge = OpenAIJudge(params(double, retries=0, concurrency=4), journal)
        judge.judge(rows(1))
        double.always, double.said = status, "the machine is on fire"
        with pytest.raises(UserError, match=what) as caught:
            judge.judge(rows(50))
        assert sum(double.judged().values()) <= most
    assert status == 401 or "on fire" in str(caught.value)


def test_nothing_listens(journal: Journal) -> None:
    with Double() as double:
        pass
    settings = params(double, retries=1).model_copy(update={"base_url": "http://127.0.0.1:9/v1"})
    with pytest.raises(UserError, match="does not answer") as caught:
        OpenAIJudge(settings, journal).judge(rows(1))
    assert "Cannot connect to host 127.0.0.1:9" in str(caught.value)
