"""What OpenAI-compatible endpoints answer: replies, thoughts that were cut, errors of every form.

Every answer without a judgement gets one of the statuses of `judge.FAILURES`, or `filtered`, and
keeps the endpoint's own words.
"""

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal

from em_geometry.errors import redacted
from em_geometry.judging.judge import Status, answer_part, token_meaning

Mode = Literal["logprob", "text"]
Reply = dict[str, Any]  # what the journal keeps of a reply

FILTERED = "content_filter"  # finish reason of what a filter withheld, whoever's the filter is
# Finish reasons, by what they mean; any other one is a reply that came to its end.
_CUT = {"length", "max_tokens", "model_length", "max_output_tokens"}
_DIED = {"error", "abort", "network_error", "insufficient_system_resource"}
_WITHHELD = {
    FILTERED, "safety", "sensitive", "prohibited_content", "blocklist", "moderation", "recitation",
    "spii", "refusal", "guardrail_intervened", "content_filtered",
}  # fmt: skip

_FILTER = re.compile(
    r"content[ _-]?(filter|polic|management|moderation|exists risk)|moderation|flagged|guardrail"
    r"|(usage|safety) (polic|guideline)|inappropriate content|responsible ?ai|prompt blocked"
    r"|safety[ _](system|filter|reason|check)|data_inspection|prohibited_content"
    r"|sensitive (content|word|information)|\u654f\u611f",  # "sensitive" in Chinese
    re.IGNORECASE,
)
_CREDIT = re.compile(
    r"insufficient[ _-]?(quota|balance|credit|fund)|credit balance|(out of|no|enough) credit"
    r"|available credits|spending limit"
    r"|billing[ _](hard|limit|not)|payment required|arrearage|\u6b20\u8d39|\u4f59\u989d",
    re.IGNORECASE,
)
# Who asks is shut out, in whatever words filters use of what is asked; a warning is no such thing
_SHUT_OUT = re.compile(
    r"\b(account|organi[sz]ation|access to the api)\b[^.]{0,40}"
    r"\b(is|was|has been|have been)( \w+)? "
    r"(flagged|suspended|blocked|banned|disabled|deactivated|terminated)"
    r"|account_(suspended|deactivated|disabled)",
    re.IGNORECASE,
)
_BAD_KEY = re.compile(r"(invalid|incorrect)[ _]api[ _]key", re.IGNORECASE)
# A limit that the reply ran into, said as an error
_UNFINISHED = re.compile(r"output limit was reached|could not finish the message", re.IGNORECASE)
_PASSING = {408, 409, 425, 429}  # and 5xx
_ECHOES = {"input", "flagged_input", "url"}  # keys of errors that quote what was sent, or say none
_SHOWN = 200  # characters of a reply that is none
_MOST_MASS = 1.1  # of the probabilities of one token's alternatives, with what rounding adds


class NoReplyError(Exception):
    """No usable reply to one request: the text says why, `status` is what its row keeps.

    Args:
        code: HTTP status, or the one that an error inside a reply stands for; 0 = no error came.

    Attributes:
        tokens: in and out, which the endpoint counts all the same.
    """

    hint = "see to it that the server is well, or change what it names with judging.extra_body"
    tokens = (0, 0)

    def __init__(self, reason: str, status: Status, code: int = 0) -> None:
        super().__init__(reason)
        self.status, self.code = status, code


class ThoughtError(NoReplyError):
    """The judge was cut before its answer, most often while it thought."""

    hint = (
        "end a judge's thinking with judging.extra_body, as its server calls it "
        '("reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": false}, '
        '"reasoning": {"enabled": false}, "thinking": {"type": "disabled"}), or give it room to '
        "finish, e.g. judging.max_tokens: 4000"
    )

    def __init__(self, reason: str) -> None:
        super().__init__(reason, "broken")


class NoLogprobsError(NoReplyError):
    """A reply without the log-probabilities that were asked for."""

    hint = (
        "ask a provider that always gives log-probabilities, or do without them: "
        'judging.extra_body: {"logprobs": null, "top_logprobs": null}'
    )

    def __init__(self) -> None:
        super().__init__("the reply has no log-probabilities", "broken")


def refusal(error: Any, code: int | None = None) -> NoReplyError:
    """What an error means for the row that was asked about, in the endpoint's own words.

    Args:
        error: the JSON of the reply, or its `error` alone.
        code: HTTP status; None where the error came under 200 or in a batch.
    """
    words = said(error) or "no reason given"
    given = error.get("code") if code is None and isinstance(error, Mapping) else code
    code = int(str(given)) if str(given).isdigit() else 0
    if not 400 <= code < 600:  # without a number it may pass, unless its words say otherwise
        kinds = ((401, _SHUT_OUT), (401, _BAD_KEY), (400, _FILTER), (402, _CREDIT))
        code = next((number for number, kind in kinds if kind.search(words)), 500)
    status: Status = "refused"
    reason = f"status {code}: {words}"
    if code < 500 and code not in _PASSING and _SHUT_OUT.search(words):
        code = 401  # no other request will do better
    elif code == 402 or (code < 500 and _CREDIT.search(words)):
        status = "no_credit"
    elif code in _PASSING or (code >= 500 and code != 501):
        status = "overloaded"
    elif code != 401 and _FILTER.search(words):
        status = "filtered"
    elif _UNFINISHED.search(words):
        return ThoughtError(words)
    return NoReplyError(reason, status, code)


def said(error: Any) -> str:
    """All that an error says, whose form differs by server: a text, or objects around texts."""
    if isinstance(error, Mapping):
        inner = [said(value) for key, value in error.items() if key not in _ECHOES]
    elif isinstance(error, list):
        inner = [said(value) for value in error]
    else:
        return error.strip().encode(errors="replace").decode() if isinstance(error, str) else ""
    return ", ".join(dict.fromkeys(text for text in inner if text))


def filtered(reason: str) -> Reply:
    """What the journal keeps of a request that a filter withheld: it would do so again."""
    return {"text": reason, "finish": FILTERED, "tokens": [0, 0], "top": []}


def read_reply(reply: Any, mode: Mode) -> Reply:
    """What the journal keeps: text, snapshot, tokens used, and in log-prob mode `top`.

    `top` is [[token, natural log-probability], ...] of the first token, as many as there are, and
    empty where a filter withholds the reply. Where the judge itself declines, its words are kept
    as `refusal`, where no number is looked for.

    Raises:
        NoReplyError: an error, under whatever status it came; something that was asked for lacks.
        ThoughtError: it ends before the answer; nothing of it is read.
    """
    if isinstance(reply, str):  # not declared as JSON
        with suppress(ValueError):
            reply = json.loads(reply)
    reply = _whole(reply)
    try:
        if reply.get("error"):
            raise refusal(reply["error"])
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        message, finish = choice.get("message") or {}, choice.get("finish_reason")
        content, declined = _text(message.get("content")), message.get("refusal")
        kept: Reply = {
            "text": content,
            "finish": finish,
            "model": reply.get("model"),
            "fingerprint": reply.get("system_fingerprint"),
            "tokens": _tokens(usage),
        }
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        shown = reply if isinstance(reply, str) else json.dumps(reply, ensure_ascii=False)
        shown = f"the reply is no chat completion: {redacted(shown)[:_SHOWN]}"
        raise NoReplyError(shown, "broken") from None
    try:
        return kept | _read_choice(choice, message, kept, declined, mode)
    except NoReplyError as error:
        error.tokens = kept["tokens"][0], kept["tokens"][1]
        raise


def _read_choice(
    choice: Mapping[str, Any], message: Mapping[str, Any], kept: Reply, declined: Any, mode: Mode
) -> Reply:
    """What a choice adds to `kept`; raises as `read_reply`."""
    finish, text = kept["finish"], kept["text"]
    if choice.get("error") or _ended(finish, _DIED):
        raise refusal(choice.get("error") or f"finish_reason {finish}")
    if _ended(finish, _WITHHELD):
        return {"finish": FILTERED, "top": []}
    if declined and not text:
        top = _top(choice.get("logprobs")) if mode == "logprob" else []
        return {"refusal": declined, "top": top}
    _refuse_thought(message, kept, mode)
    if mode == "text":
        if not text:
            there = ", ".join(key for key, value in message.items() if value)
            why = f"the reply holds no text (finish_reason {finish}; it has {there})"
            raise NoReplyError(why, "broken")
        return {}
    if not (top := _top(choice.get("logprobs"))):
        raise NoLogprobsError
    return {"top": top}


def _whole(reply: Any) -> Any:
    """A reply whose texts can be kept: proxies cut an emoji in two, and half of one is no text."""
    with suppress(UnicodeEncodeError):
        json.dumps(reply, ensure_ascii=False).encode()
        return reply
    return json.loads(json.dumps(reply, ensure_ascii=False).encode(errors="replace"))


def _tokens(usage: Mapping[str, Any]) -> list[int]:
    """Tokens in and out; what only the total counts was thought, and is paid for as output."""
    given = (usage.get(f"{kind}_tokens") for kind in ("prompt", "completion", "total"))
    prompt, completion, total = (max(int(count or 0), 0) for count in given)
    return [prompt, max(completion, total - prompt)]


def _ended(finish: Any, how: set[str]) -> bool:
    """Whether a finish reason is one of these, or begins with one ("content_filter: ...")."""
    return str(finish).lower().split(":")[0].strip() in how


def _refuse_thought(message: Mapping[str, Any], kept: Reply, mode: Mode) -> None:
    """ThoughtError where a reply holds no answer yet: a number in it would be part of a thought."""
    text = kept["text"]
    thought = message.get("reasoning_content") or message.get("reasoning")
    cut = mode == "text" and _ended(kept["finish"], _CUT)
    if cut or answer_part(text) is None or (thought and not text):
        shown = repr(redacted(text or str(thought or ""))[:60])
        why = f"the judge was cut (finish_reason {kept['finish']}) at {shown}, before its answer"
        raise ThoughtError(why)


def _text(content: Any) -> str:
    """A message's content, which may come in parts; parts that hold a thought are left out."""
    if isinstance(content, str) or content is None:
        return content or ""
    texts = [part if isinstance(part, str) else part.get("text") for part in content]
    return "".join(text for text in texts if isinstance(text, str))


def _top(logprobs: Any) -> list[list[Any]]:
    """[token, log-probability] of the first token's alternatives, or of it alone; [] without any.

    A token that is impossible may have null for its log-probability. Probabilities that are no
    logarithms, or more than one in sum, are none that were asked for.
    """
    found: list[list[Any]] = []
    try:
        first = logprobs["content"][0]
        for entry in first.get("top_logprobs") or [first]:
            token, log = str(entry.get("token")), entry["logprob"]
            # Some servers give a number for a token, or nothing, and its text as bytes
            if not token.isdigit() and entry.get("bytes") and token_meaning(token) is None:
                token = bytes(entry["bytes"]).decode(errors="replace")
            if log is not None:
                found.append([token, float(log)])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return []
    if not sum(math.exp(min(log, 1.0)) for _, log in found) < _MOST_MASS:  # also NaN
        raise NoLogprobsError
    return found
