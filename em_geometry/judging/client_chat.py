"""What is asked of a chat endpoint, and what is read from its replies."""

from __future__ import annotations

import math
from typing import Any, Literal

Mode = Literal["logprob", "text"]
Reply = dict[str, Any]  # what the journal keeps of a reply

TOP = 20  # alternatives of the first token; the most that OpenAI returns
TEXT_TOKENS = 16  # enough for "Score: 85/100." and for REFUSAL in pieces
TEXT_TEMPERATURE = 1.0  # samples then estimate the mean that log-probabilities give exactly


class MalformedReplyError(Exception):
    """A reply that does not hold what was asked for; worth asking again."""


def request_body(model: str, prompt: str, mode: Mode, sample: int = 0) -> dict[str, Any]:
    """Body of a chat completion request.

    Args:
        mode: "logprob" asks for one token at temperature 0 with its `TOP` alternatives, "text"
            for a short reply at `TEXT_TEMPERATURE`.
        sample: number of the reply in text mode; it seeds the endpoint's sampling.
    """
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    if mode == "logprob":
        return body | {"max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": TOP}
    return body | {"max_tokens": TEXT_TOKENS, "temperature": TEXT_TEMPERATURE, "seed": sample}


def output_tokens(mode: Mode) -> int:
    """The most tokens that one reply has."""
    return 1 if mode == "logprob" else TEXT_TOKENS


def read_reply(reply: Any, mode: Mode) -> Reply:
    """What the journal keeps: text, snapshot, tokens used, and in log-prob mode `top`.

    Raises:
        MalformedReplyError: the reply lacks something that was asked for.
    """
    try:
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        message = choice["message"]
        text = message.get("content")
        kept: Reply = {
            "text": text if text is not None else message.get("refusal") or "",
            "finish": choice.get("finish_reason"),
            "model": reply.get("model"),
            "fingerprint": reply.get("system_fingerprint"),
            "tokens": [int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))],
        }
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise MalformedReplyError("the reply is no chat completion") from None
    if not isinstance(kept["text"], str):
        raise MalformedReplyError("the reply's content is no text")
    if mode == "logprob":
        kept["top"] = _read_top(choice, declined=text is None or kept["finish"] == "content_filter")
    return kept


def _read_top(choice: dict[str, Any], declined: bool) -> list[list[Any]]:
    """[[token, natural log-probability], ...] of the first token.

    A judge that itself declines, or is cut off by a content filter, has said nothing about the
    score: that is an empty list, not a malformed reply.
    """
    try:
        entries = choice["logprobs"]["content"][0]["top_logprobs"]
        top: list[tuple[str, float]] = [(str(e["token"]), float(e["logprob"])) for e in entries]
    except (KeyError, IndexError, TypeError, ValueError):
        if declined:
            return []
        raise MalformedReplyError("the reply has no log-probabilities") from None
    if not top or any(math.isnan(logprob) for _, logprob in top):
        raise MalformedReplyError("the reply has no usable log-probabilities")
    return [list(pair) for pair in top]
