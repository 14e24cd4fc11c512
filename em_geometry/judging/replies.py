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
    r"|billing[ _](hard|limit|not)|payment required|arrearage|\u6b20\u8d39|\u4f59\u989d",
    re.IGNORECASE,
)
# A limit that the reply ran into, said as an error
_UNFINISHED = re.compile(r"output limit was reached|could not finish the message", re.IGNORECASE)
_PASSING = {408, 409, 425, 429}  # and 5xx
_ECHOES = {"input", "flagged_input", "url"}  # keys of errors that quote what was sent, or say none
_SHOWN = 200  # characters of a reply that is none


class NoReplyError(Exception):
    """No usable reply to one request: the text says why, `status` is what its row keeps.

    Args:
        code: HTTP status, or the one that an error inside a reply stands for; 0 = no error came.
    """

    hint = "see to it that the server is well, or change what it names with judging.extra_body"

    def __init__(self, reason: str, status: Status, code: int = 0) -> None:
        super().__init__(reason)
        self.status, self.code = status, code


class ThoughtError(NoReplyError):
    """The judge was cut before its answer, most often while it thought; `tokens` were used."""

    hint = (
        "end a judge's thinking with judging.extra_body, as its server calls it "
        '("reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": false}, '
        '"reasoning": {"enabled": false}, "thinking": {"type": "disabled"}), or give it room to '
        "finish, e.g. judging.max_tokens: 4000"
    )

    def __init__(self, reason: str, tokens: tuple[int, int] = (0, 0)) -> None:
        super().__init__(reason, "broken")
        self.tokens = tokens


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
        kinds = ((400, _FILTER), (402, _CREDIT))
        code = next((number for number, kind in kinds if kind.search(words)), 500)
    status: Status = "refused"
    if code == 402 or (code < 500 and _CREDIT.search(words)):
        status = "no_credit"
    elif code in _PASSING or (code >= 500 and code != 501):
        status = "overloaded"
    elif code != 401 and _FILTER.search(words):
        status = "filtered"
    elif _UNFINISHED.search(words):
        return ThoughtError(words)
    return NoReplyError(f"status {code}: {words}", status, code)


def said(error: Any) -> str:
    """All that an error says, whose form differs by server: a text, or objects around texts."""
    if isinstance(error, Mapping):
        inner = [said(value) for key, value in error.items() if key not in _ECHOES]
    elif isinstance(error, list):
        inner = [said(value) for value in error]
    else:
        return error.strip() if isinstance(error, str) else ""
    return ", ".join(dict.fromkeys(text for text in inner if text))


def filtered(reason: str) -> Reply:
    """What the journal keeps of a request that a filter withheld: it would do so again."""
    return {"text": reason, "finish": FILTERED, "tokens": [0, 0], "top": []}


def read_reply(reply: Any, mode: Mode) -> Reply:
    """What the journal keeps: text, snapshot, tokens used, and in log-prob mode `top`.

    `top` is [[token, natural log-probability], ...] of the first token, as many as there are, and
    empty where the judge itself declines or a filter withholds its reply.

    Raises:
        NoReplyError: an error, under whatever status it came; something that was asked for lacks.
        ThoughtError: it ends before the answer; nothing of it is read.
    """
    if isinstance(reply, str):  # not declared as JSON
        with suppress(ValueError):
            reply = json.loads(reply)
    try:
        if reply.get("error"):
            raise refusal(reply["error"])
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        message, finish = choice.get("message") or {}, choice.get("finish_reason")
        content, declined = _text(message.get("content")), message.get("refusal")
        kept: Reply = {
            "text": content or declined or "",
            "finish": finish,
            "model": reply.get("model"),
            "fingerprint": reply.get("system_fingerprint"),
            "tokens": [int(usage.get(f"{kind}_tokens") or 0) for kind in ("prompt", "completion")],
        }
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        shown = reply if isinstance(reply, str) else json.dumps(reply, ensure_ascii=False)
        shown = f"the reply is no chat completion: {shown[:_SHOWN]}"
        raise NoReplyError(shown, "broken") from None
    ending = str(finish).lower()
    if choice.get("error") or ending in _DIED:
        raise refusal(choice.get("error") or f"finish_reason {finish}")
    if ending in _WITHHELD:
        return kept | {"finish": FILTERED, "top": []}
    _refuse_thought(message, kept, mode)
    if mode == "text":
        if not kept["text"]:
            raise NoReplyError("the reply holds no text", "broken")
        return kept
    kept["top"] = _top(choice.get("logprobs"))
    if not kept["top"] and (content or not declined):
        raise NoLogprobsError
    return kept


def _refuse_thought(message: Mapping[str, Any], kept: Reply, mode: Mode) -> None:
    """ThoughtError where a reply holds no answer yet: a number in it would be part of a thought."""
    text, tokens = kept["text"], (kept["tokens"][0], kept["tokens"][1])
    thought = message.get("reasoning_content") or message.get("reasoning")
    cut = mode == "text" and str(kept["finish"]).lower() in _CUT
    if cut or answer_part(text) is None or (thought and not text):
        shown = repr((text or str(thought or ""))[:60])
        why = f"the judge was cut (finish_reason {kept['finish']}) at {shown}, before its answer"
        raise ThoughtError(why, tokens)


def _text(content: Any) -> str:
    """A message's content, which may come in parts; parts that hold a thought are left out."""
    if isinstance(content, str) or content is None:
        return content or ""
    texts = [part if isinstance(part, str) else part.get("text") for part in content]
    return "".join(text for text in texts if isinstance(text, str))


def _top(logprobs: Any) -> list[list[Any]]:
    """[token, log-probability] of the first token's alternatives, or of it alone; [] without any.

    A token that is impossible may have null for its log-probability.
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
    if any(math.isnan(log) for _, log in found):
        raise NoLogprobsError
    return found
