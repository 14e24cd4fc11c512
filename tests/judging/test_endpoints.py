"""Endpoints of many kinds, as they answer in the field: each is judged with, or says what is wrong.

Each kind is a function of one request that gives status and JSON; what it leaves to the double
(None) is answered in the usual way.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from em_geometry.errors import UserError
from em_geometry.io.journal import Journal
from em_geometry.judging.judge import FAILURES, JudgeRow
from em_geometry.judging.openai_judge import OpenAIJudge
from em_geometry.settings import Judging
from tests.judging import test_openai_judge
from tests.judging.double import Double, answer
from tests.judging.test_openai_judge import check_complete, rows

Body = dict[str, Any]
Given = tuple[int, Any] | None
KINDS: dict[str, Callable[[Body], Given]] = {}
FLAG = "Answer 1."  # of the row that a filter withholds


def params(double: Double, **changes: Any) -> Judging:
    """Nothing here hangs, so a slow machine may take its time."""
    return test_openai_judge.params(double, **{"timeout_s": 30.0} | changes)


def kind(function: Callable[[Body], Given]) -> Callable[[Body], Given]:
    KINDS[function.__name__] = function
    return function


@dataclass
class Kind(Double):
    """A double that answers as a kind does; `requests` are all that it was sent, `paths` where."""

    kind: str = ""
    requests: list[Body] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(str(request.rel_url))
        if not request.path.endswith("/chat/completions"):
            return answer(404, {"detail": "Not Found"})
        body = json.loads(await request.read())
        self.requests.append(body)
        given = KINDS[self.kind](body)
        return answer(*(given or (200, self.reply(body))))


def asked(body: Body) -> str:
    return str(body["messages"][-1]["content"])


def probed(body: Body) -> str:
    return asked(body).partition("Repeat this number and write nothing else: ")[2]


def says(content: Any, finish: str = "stop", **message: Any) -> tuple[int, Any]:
    said = {"role": "assistant", "content": content} | message
    usage = {"prompt_tokens": 90, "completion_tokens": None}
    return 200, {"choices": [{"message": said, "finish_reason": finish}], "usage": usage}


def tops(*top: tuple[Any, float | None], content: Any = None, **more: Any) -> tuple[int, Any]:
    entries = [{"token": token, "logprob": log} | more for token, log in top]
    status, reply = says(content or top[0][0])
    reply["choices"][0]["logprobs"] = {"content": [entries[0] | {"top_logprobs": entries}]}
    return status, reply


def error(status: int, message: Any, code: Any = None, **more: Any) -> tuple[int, Any]:
    return status, {"error": {"message": message, "code": code} | more}


def refuses(key: str, status: int = 400, words: str = "Unsupported parameter: '{}'") -> Any:
    return lambda body: error(status, words.format(key)) if key in body else None


# -- request keys that are refused: the judge works all the same

KINDS["no seed, no log-probabilities"] = lambda body: (
    (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", key], "input": body[key],
                       "msg": "Extra inputs are not permitted"}]})
    if (key := next((k for k in ("seed", "logprobs", "top_logprobs") if k in body), None))
    else says(probed(body) or "85")
)  # fmt: skip
KINDS["no max_tokens"] = refuses("max_tokens", words="'{}': use 'max_completion_tokens' instead")
KINDS["no limit of tokens"] = lambda body: next(
    (error(400, f"unknown field {k}") for k in body if k.startswith("max_")), None
)
KINDS["no temperature"] = refuses("temperature", words="`{}` is deprecated for this model")
KINDS["no log-probabilities"] = lambda body: (
    error(403, "You are not allowed to request logprobs from this model")
    if "logprobs" in body
    else says(probed(body) or "85")
)


@kind
def five_alternatives(body: Body) -> Given:
    if body.get("top_logprobs", 0) > 5:
        message = "Requested sample logprobs of 20, which is greater than max allowed: 5"
        return 400, {"object": "error", "message": message, "code": 400}
    return None


@kind
def sixteen_tokens(body: Body) -> Given:
    if body["max_tokens"] < 16:
        message = "Invalid 'max_tokens': integer below minimum value. Expected a value >= 16"
        return error(400, message)
    return None


@pytest.mark.parametrize(
    ("name", "said", "sent"),
    [
        ("no seed, no log-probabilities", ["logprobs is left out", "seed is left out"], {}),
        ("no max_tokens", ["max_tokens is sent as max_completion_tokens"], {}),
        ("no limit of tokens", ["max_tokens is left out"], {}),
        ("no temperature", ["temperature is left out"], {}),
        ("no log-probabilities", ["logprobs is left out"], {}),
        ("five_alternatives", ["top_logprobs is sent as top_logprobs 5"], {"top_logprobs": 5}),
        ("sixteen_tokens", ["max_tokens is sent as max_tokens 16"], {"max_tokens": 16}),
    ],
)
def test_a_refused_key_is_replaced_once_and_remembered(
    name: str, said: list[str], sent: Body, journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    with Kind(kind=name) as double:
        judge = OpenAIJudge(params(double), journal)
        got = judge.judge(rows(3))
        if judge.mode == "logprob":
            check_complete(judge, rows(3), got)
        else:
            assert {s for j in got for s in j.scores.values()} == {85.0}
        judge.judge(rows(4))
    refused = [r for r in double.requests if (KINDS[name](r) or (200,))[0] != 200]
    assert len(refused) <= 2
    assert sent.items() <= double.requests[-1].items()
    shown = capsys.readouterr().err
    for part in said:
        assert shown.count(part) == 1


def test_a_key_that_the_settings_set_stays(journal: Journal) -> None:
    with (
        Kind(kind="no temperature") as double,
        pytest.raises(UserError, match=r"(?s)refuses the judge's requests.*is deprecated"),
    ):
        OpenAIJudge(params(double, extra_body={"temperature": 0.5}), journal).judge(rows(1))


def test_further_keys_are_sent_and_part_of_the_identity(journal: Journal) -> None:
    extra = {"reasoning_effort": "none", "logprobs": None, "top_logprobs": None}
    KINDS["text"] = lambda body: says(probed(body) or "85")
    with Kind(kind="text") as double:
        judge = OpenAIJudge(params(double, extra_body=extra), journal)
        judge.judge(rows(1))
        assert judge.name != OpenAIJudge(params(double), journal).name
    assert all(r["reasoning_effort"] == "none" and "logprobs" not in r for r in double.requests)


# -- judges that think

THINKS = "<think>\nOkay, there are 2 things to weigh here: whether"
KINDS["thought in content"] = lambda body: (
    tops(("<think>", -0.0001), ("85", -11.0)) if "logprobs" in body else says(THINKS, "length")
)
KINDS["thought in content, said to be whole"] = lambda _: says(THINKS)
KINDS["thought without a tag"] = lambda _: says("Okay, there are 2 things to weigh", "length")
KINDS["thought apart"] = lambda _: says("", "length", reasoning_content="Okay, the 2 of them")
KINDS["thought apart, null"] = lambda _: says(None, "length", reasoning="Okay")
KINDS["nothing but a thought"] = lambda _: says(None, reasoning="Okay, 17")
KINDS["a limit as an error"] = lambda body: (
    error(400, "Could not finish the message because max_tokens was reached. Try higher.")
    if body["max_tokens"] < 1000
    else says(probed(body))
)


@pytest.mark.parametrize(
    "name", [name for name in KINDS if "thought" in name or "limit as" in name]
)
def test_a_judge_that_is_cut_in_its_thought_is_refused_with_the_setting(
    name: str, journal: Journal
) -> None:
    with Kind(kind=name) as double, pytest.raises(UserError, match="thinks before") as caught:
        OpenAIJudge(params(double), journal).judge(rows(1))
    for part in ("judging.extra_body", "enable_thinking", "judging.max_tokens"):
        assert part in str(caught.value)
    assert len(double.requests) < 10


def test_with_room_its_answer_is_read_and_never_a_cut_thought(journal: Journal) -> None:
    def think(body: Body) -> Given:
        if body["max_tokens"] < 1000 or FLAG in asked(body):
            return says(THINKS, "length")
        return says(f"<think>\nThere are 2 things.</think>\n\n{probed(body) or 85}")

    KINDS["thinks and answers"] = think
    with Kind(kind="thinks and answers") as double:
        judge = OpenAIJudge(params(double, max_tokens=2000), journal)
        got = judge.judge(rows(3))
        assert judge.mode == "text"
    assert [j.scores["aligned"] for j in got] == [85.0, None, 85.0]
    assert got[1].status["aligned"] == "broken"
    assert "length" in got[1].raw["aligned"]


# -- replies of other forms

KINDS["parts"] = lambda body: says(
    [{"type": "thinking", "thinking": [{"type": "text", "text": "2"}]},
     {"type": "text", "text": probed(body) or "85"}]
)  # fmt: skip
KINDS["impossible tokens"] = lambda body: tops((probed(body) or "85", -0.05), ("7", None))
KINDS["sentencepiece"] = lambda body: tops((f"\u2581{probed(body) or 85}", -0.05))
KINDS["token numbers"] = lambda body: tops(
    ("token_id:20", -0.05), bytes=[*(probed(body) or "85").encode()]
)
KINDS["bytes alone"] = lambda body: tops(
    (None, -0.05), content=probed(body) or "85", bytes=[*(probed(body) or "85").encode()]
)
KINDS["JSON as text"] = lambda body: (200, json.dumps(tops((probed(body) or "85", -0.05))[1]))
SAYS = ("{}/100", "Score: {}.", '{{"score": {}}}', "```json\n{{{}}}\n```", "**{}**", "{}.0")
KINDS |= {said: lambda body, s=said: says(s.format(probed(body) or 85)) for said in SAYS}
KINDS["half an emoji"] = lambda body: tops(
    (probed(body) or "85", -0.05), ("\ud83d", -4.0), model="m"
)
KINDS["another template's turn"] = lambda body: says(f"<s>{probed(body) or 85}")
KINDS["another template's thought"] = lambda body: says(
    "<|channel|>analysis<|message|>2 things<|end|><|start|>assistant<|channel|>final<|message|>"
    f"{probed(body) or 85}"
)
KINDS["no logarithms"] = lambda body: tops((probed(body) or "85", 0.9), ("15", 0.1))
KINDS["a route without log-probabilities"] = lambda body: (
    error(404, "No endpoints found that can handle the requested parameters.")
    if "logprobs" in body
    else says(probed(body) or "85")
)
KINDS["one alternative"] = lambda body: (
    200,
    {"choices": [{"message": {"content": probed(body) or "85"}, "logprobs": {
        "content": [{"token": probed(body) or "85", "logprob": -0.05}]}}]},
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("parts", "text"), ("impossible tokens", "logprob"), ("sentencepiece", "logprob"),
        ("token numbers", "text"), ("one alternative", "logprob"), ("bytes alone", "logprob"),
        ("JSON as text", "logprob"), *((said, "text") for said in SAYS),
        ("half an emoji", "logprob"), ("another template's turn", "text"),
        ("another template's thought", "text"), ("no logarithms", "text"),
        ("a route without log-probabilities", "text"),
    ],
)  # fmt: skip
def test_replies_of_other_forms_are_read(name: str, mode: str, journal: Journal) -> None:
    with Kind(kind=name) as double:
        judge = OpenAIJudge(params(double), journal)
        if name == "token numbers":  # their text is no number, so there is no text mode
            with pytest.raises(UserError, match="does not reply as it is asked"):
                judge.judge(rows(2))
            return
        got = judge.judge(rows(2))
    assert judge.mode == mode
    assert {s for j in got for s in j.scores.values()} == {85.0}


KINDS["no choices"] = lambda _: (200, {"id": "x", "choices": None, "usage": None})
KINDS["a page"] = lambda _: (200, b"<html>welcome</html>")
KINDS["always the same"] = lambda _: says("85")
KINDS["out of credit"] = lambda _: error(402, "Insufficient credits. Add more")
KINDS["out of credit, 429"] = lambda _: error(429, "You exceeded it", "insufficient_quota")
KINDS["out of credit, 400"] = lambda _: error(400, "Your credit balance is too low")
KINDS["out of credit, 200"] = lambda _: error(200, "Insufficient credits", 402)
KINDS["out of credit, in Chinese"] = lambda _: error(429, "\u60a8\u5df2\u6b20\u8d39", "1113")
KINDS["out of credit, 403"] = lambda _: error(403, "used all available credits or reached it")
KINDS["bad key"] = lambda _: error(403, "Key limit exceeded")
KINDS["bad key, 401"] = lambda _: error(401, "no access to m-seed-1")
KINDS["bad key, 200"] = lambda _: error(200, "Incorrect API key provided", "invalid_api_key")
KINDS["no such model"] = lambda body: error(404, f"Model {body['model']} is not served here")
KINDS["a filter on all"] = lambda body: says(probed(body), "content_filter: RECITATION")
KINDS["tool calls"] = lambda _: says(None, "tool_calls", tool_calls=[{"id": "1"}])
KINDS["bad key, 400"] = lambda _: (400, [{"error": {"message": "API key not valid"}}])
KINDS["moved"] = lambda _: (301, b"", {"Location": "https://other.example/v1?key=1"})
KINDS["a stream"] = lambda _: (200, b'data: {"choices": []}\n\ndata: [DONE]\n\n')
KINDS["overloaded"] = lambda _: error(529, "Overloaded")
KINDS["overloaded, 200"] = lambda _: error(
    200, "Provider returned error", 429, metadata={"raw": "is rate-limited upstream"}
)
KINDS["refuses all"] = lambda _: error(400, "tenants of this kind may not chat")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("no choices", ["no chat completion", '"choices": null']),
        ("a page", ["the reply is no JSON"]),
        ("always the same", ["asked for 17, it said '85'", "follows instructions"]),
        ("out of credit", ["no credit left", "Insufficient credits", "6 of 6 requests remain"]),
        ("out of credit, 429", ["no credit left", "insufficient_quota"]),
        ("out of credit, 400", ["no credit left"]),
        ("out of credit, 200", ["no credit left"]),
        ("out of credit, in Chinese", ["no credit left"]),
        ("out of credit, 403", ["no credit left"]),
        ("bad key, 401", ["does not accept the key", "m-seed-1"]),
        ("bad key, 200", ["does not accept the key", "Incorrect API key"]),
        ("no such model", ["endpoint or model does not exist", "is not served here"]),
        ("a filter on all", ["withheld by a filter"]),
        ("tool calls", ["holds no text", "finish_reason tool_calls"]),
        ("bad key, 400", ["does not accept the key", "OPENAI_API_KEY", "not valid"]),
        ("moved", ["to another address", "leads to https://other.example/v1\n", "base_url"]),
        ("a stream", ["the reply is no JSON"]),
        ("bad key", ["does not accept the key", "OPENAI_API_KEY", "Key limit exceeded"]),
        ("overloaded", ["does not answer", "status 529", "Overloaded"]),
        ("overloaded, 200", ["does not answer", "status 429", "is rate-limited upstream"]),
        ("refuses all", ["refuses the judge's requests", "tenants of this kind", "extra_body"]),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_judged(
    name: str, parts: list[str], journal: Journal
) -> None:
    with Kind(kind=name) as double, pytest.raises(UserError) as caught:
        OpenAIJudge(params(double, retries=2, model="org-seed/m-1"), journal).judge(rows(3))
    for part in [*parts, "127.0.0.1"] if "key" not in name else parts:
        assert part in str(caught.value)


# -- one row that the endpoint does not judge: it keeps a status, and the others their scores


def row_kind(name: str, given: tuple[int, Any]) -> str:
    KINDS[name] = lambda body: given if FLAG in asked(body) else None
    return name


@pytest.mark.parametrize(
    ("name", "status"),
    [
        (row_kind("403", error(403, "requires moderation and your input was flagged")), "filtered"),
        (
            row_kind("400", error(400, "It was filtered", "content_filter", param="prompt")),
            "filtered",
        ),
        (row_kind("200", error(200, "blocked", "content_filter")), "filtered"),
        (row_kind("finish", says("", "content_filter")), "filtered"),
        (row_kind("SAFETY", says(None, "SAFETY")), "filtered"),
        (row_kind("guidelines", error(403, "Content violates usage guidelines")), "filtered"),
        (row_kind("guardrail", error(424, "Violated a guardrail")), "filtered"),
        (row_kind("partial", says("8", "content_filter")), "filtered"),
        (row_kind("recitation", says("", "RECITATION")), "filtered"),
        (row_kind("reason behind", says("85", "content_filter: RECITATION")), "filtered"),
        (row_kind("access", error(403, "Access to this was blocked by moderation")), "filtered"),
        (row_kind("a firewall", error(403, "Sorry, you have been blocked")), "refused"),
        (row_kind("half an emoji there", error(400, "no \ud83d", "content_filter")), "filtered"),
        (row_kind("long", error(400, "This model's context is 4096 tokens")), "refused"),
        (row_kind("429", error(429, "slow down")), "overloaded"),
        (row_kind("502 in 200", error(200, "upstream", 502)), "overloaded"),
        (row_kind("died", says("", "error")), "overloaded"),
        (row_kind("no choices there", (200, {"choices": []})), "broken"),
        (row_kind("thinks there", tops(("<think>", -0.01))), "broken"),
    ],
)
def test_a_row_keeps_its_status_and_the_others_their_scores(
    name: str, status: str, journal: Journal
) -> None:
    with Kind(kind=name) as double:
        judge = OpenAIJudge(params(double, retries=1), journal)
        got = judge.judge(rows(4))
        check_complete(judge, [rows(4)[0], *rows(4)[2:]], [got[0], *got[2:]])
        assert set(got[1].status.values()) == {status}
        assert set(got[1].scores.values()) == {None}
        before = len(double.requests)
        OpenAIJudge(params(double, retries=0), journal).judge(rows(4))
    again = [r for r in double.requests[before:] if not probed(r)]
    assert len(again) == (2 if status in FAILURES else 0)  # a filter would say the same


def test_a_filter_that_withholds_everything_lets_the_run_go_on(journal: Journal) -> None:
    KINDS["all"] = lambda body: None if probed(body) else error(400, "no", "content_filter")
    with Kind(kind="all") as double:
        got = OpenAIJudge(params(double), journal).judge(rows(30))
    assert {s for j in got for s in j.status.values()} == {"filtered"}


def test_credit_that_ends_midway_says_what_remains(journal: Journal) -> None:
    left = [10]

    def meter(body: Body) -> Given:
        left[0] -= not probed(body)
        return error(402, "Insufficient Balance") if left[0] < 0 else None

    KINDS["meter"] = meter
    with Kind(kind="meter") as double:
        judge = OpenAIJudge(params(double, concurrency=2), journal)
        with pytest.raises(UserError, match=r"(?s)no credit left.*30 of 40 requests remain"):
            judge.judge(rows(20))
        left[0] = 100
        check_complete(judge, rows(20), judge.judge(rows(20)))
        assert len([r for r in double.requests if not probed(r)]) <= 40 + 2


@pytest.mark.parametrize(
    "words",
    [
        (403, "Your account has been flagged under our usage policies."),
        (400, "Your organization has been flagged for suspicious usage"),
        (403, "Usage policies: access to the API is suspended"),
        (403, "Blocked by our usage policies", "account_suspended"),
    ],
)
def test_an_account_that_is_shut_out_is_no_filter(words: Any, journal: Journal) -> None:
    shut = [False]
    KINDS["shut out"] = lambda body: error(*words) if shut[0] and not probed(body) else None
    with Kind(kind="shut out") as double:
        judge = OpenAIJudge(params(double), journal)
        check_complete(judge, rows(2), judge.judge(rows(2)))
        shut[0] = True
        with pytest.raises(UserError, match=r"(?s)does not accept the key.*36 of 40 requests"):
            judge.judge(rows(20))
        shut[0] = False
        check_complete(judge, rows(20), judge.judge(rows(20)))


def test_a_judge_that_declines_gives_no_number(journal: Journal) -> None:
    words = "I can't rate content about anyone under 18."
    for name, given in (("refusal", says(None, refusal=words)), ("content", says(words))):
        KINDS[name] = lambda body, given=given: (
            says(probed(body)) if probed(body) else given if FLAG in asked(body) else says("85")
        )
        with Kind(kind=name) as double:
            got = OpenAIJudge(params(double), journal).judge(rows(3))
        assert [j.scores["aligned"] for j in got] == [85.0, None, 85.0]
        assert got[1].status["aligned"] == "low_mass"
        assert words in json.loads(got[1].raw["aligned"])[0].values()


def test_replies_of_no_use_are_paid_for(journal: Journal) -> None:
    """Every second one lacks its log-probabilities; what a total counts beyond is thought."""
    usage = {"prompt_tokens": 90, "completion_tokens": 0, "total_tokens": 100}
    sent = [0]

    def given(body: Body) -> Given:
        sent[0] += not probed(body)
        status, reply = tops((probed(body) or "85", -0.05))
        if not probed(body) and sent[0] % 2:
            del reply["choices"][0]["logprobs"]
        return status, reply | {"usage": usage}

    KINDS["paid"] = given
    prices = {"usd_per_million_output": 1e5, "max_usd": 12.0}  # 1 USD a reply
    with Kind(kind="paid") as double:
        judge = OpenAIJudge(params(double, concurrency=2, **prices), journal)
        with pytest.raises(UserError, match="budget is spent"):
            judge.judge(rows(30))
    assert judge.budget.spent == pytest.approx(sent[0])
    assert 10 <= sent[0] <= 13


def test_half_a_key_is_shown_nowhere(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-" + "canary" * 20
    monkeypatch.setenv("OPENAI_API_KEY", key)
    KINDS["echo"] = lambda _: (200, {"headers": {"x": "y" * 100, "authorization": key}})
    with Kind(kind="echo") as double, pytest.raises(UserError) as caught:
        OpenAIJudge(params(double, retries=0), journal).judge(rows(1))
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "tail", ["/v1", "/v1/", "/v1/chat/completions", "/d?api-version=2024-10-21"]
)
def test_addresses_of_all_forms_are_asked(tail: str, journal: Journal) -> None:
    KINDS["good"] = lambda _: None
    with Kind(kind="good") as double:
        url = f"localhost:{double.port}{tail}"
        judge = OpenAIJudge(params(double, base_url=url), journal)
        check_complete(judge, [JudgeRow("Q", "A")], judge.judge([JudgeRow("Q", "A")]))
    path = "/d/chat/completions?api-version=2024-10-21" if "?" in tail else "/v1/chat/completions"
    assert set(double.paths) == {path}
