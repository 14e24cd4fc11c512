"""The start-up probe: can this endpoint's log-probabilities be used for scores 0..100?

The score needs every integer 0..100 to be one token. A tokeniser that splits digits answers
"85" with the token "8", which would be read as the score 8. So the endpoint is asked to repeat
numbers: one token must hold the whole number with more probability than its first digits hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from em_geometry.errors import UserError
from em_geometry.judging.client import Client, NoReplyError, RejectedError, endpoint_name
from em_geometry.judging.client_chat import (
    MalformedReplyError,
    Mode,
    Reply,
    read_reply,
    request_body,
)

NUMBERS = ("17", "85", "100")
PROMPT = "Repeat this number and write nothing else: {number}"


async def probe_mode(client: Client) -> Mode:
    """Which mode suits the endpoint: "logprob" where it gives usable ones, else "text".

    Raises:
        UserError: the endpoint does not answer.
    """
    try:
        tops = [await _top(client, number) for number in NUMBERS]
        if any(tops):  # then a missing one is a fault of that reply
            tops = [
                top or await _top(client, number) for top, number in zip(tops, NUMBERS, strict=True)
            ]
        if all(whole_number(top, n) for top, n in zip(tops, NUMBERS, strict=True)):
            return "logprob"
        body = request_body(client.model, PROMPT.format(number=NUMBERS[0]), "text")
        await client.chat(body, lambda reply: read_reply(reply, "text"))
    except NoReplyError as error:
        raise UserError(
            "the judge's endpoint does not answer",
            where=f"{endpoint_name(client.url)}, model {client.model}",
            found=str(error),
            hint="check judging.base_url, and that the server is running",
        ) from None
    return "text"


def whole_number(top: Sequence[Sequence[object]], number: str) -> bool:
    """Whether one token holds the whole `number` with more probability than its beginnings do."""
    whole = beginning = 0.0
    for token, logprob in top:
        text, weight = str(token).strip(), math.exp(min(float(str(logprob)), 0.0))
        if text == number:
            whole += weight
        elif text and number.startswith(text):
            beginning += weight
    return whole > beginning


async def _top(client: Client, number: str) -> list[list[object]]:
    """Alternatives of the first token; empty when the endpoint gives or allows none."""
    body = request_body(client.model, PROMPT.format(number=number), "logprob")
    try:
        reply = await client.chat(body, _read)
    except RejectedError:
        return []
    return list(reply.get("top", []))


def _read(reply: object) -> Reply:
    """A reply without log-probabilities is an answer here, not a fault to retry."""
    try:
        return read_reply(reply, "logprob")
    except MalformedReplyError:
        return read_reply(reply, "text")
