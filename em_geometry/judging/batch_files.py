"""Files of results of a Batch API: fetched from wherever they lie, and read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin, urlsplit

from em_geometry.errors import UserError, redacted
from em_geometry.judging.client import LOOPBACK
from em_geometry.judging.replies import (
    Mode,
    NoReplyError,
    Reply,
    filtered,
    read_reply,
    refusal,
)

if TYPE_CHECKING:
    from openai import AsyncOpenAI

TIMEOUT_S: Final = 900.0  # for a whole file, up or down


async def fetch(api: AsyncOpenAI, file: str) -> bytes | None:
    """A file; None where the endpoint no longer has it. An action for `Client.call`."""
    import openai

    try:
        return (await api.files.content(file)).content
    except openai.APIStatusError as error:
        if error.status_code in (404, 410):
            return None
        place = error.response.headers.get("location")
        if error.status_code >= 400 or not place:
            raise
        return await _stored(urljoin(str(error.response.url), place))


async def _stored(place: str) -> bytes:
    """A file in a store, to which an endpoint leads; the store is not told the endpoint's key."""
    import aiohttp
    from yarl import URL

    parts = urlsplit(place)
    shown = f"{parts.scheme}://{parts.hostname}{parts.path}"  # what follows is a secret too
    if parts.scheme != "https" and parts.hostname not in LOOPBACK:
        raise UserError(
            "the endpoint keeps the results of batches at an address without encryption",
            where="params.yaml: judging.base_url",
            found=shown,
            expected="an https address",
            hint="ask those who run the endpoint; the batches are kept there",
        )
    limit, address = aiohttp.ClientTimeout(TIMEOUT_S), URL(place, encoded=True)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit, trust_env=True) as session,
            session.get(address, allow_redirects=False) as answer,
        ):
            if answer.status == 200:
                return await answer.read()
            why = f"status {answer.status}"
    except aiohttp.ClientError as error:
        why = type(error).__name__  # its text quotes the whole address
    raise NoReplyError(f"{shown}, where the endpoint keeps a file of results: {why}", "unreachable")


def read_results(
    text: str, mode: Mode, where: str
) -> tuple[dict[str, Reply], dict[str, NoReplyError], str]:
    """Replies, and reasons for missing ones, by key, from an output or error file.

    The third says which lines are no result, "" where all are: a file that was cut has one.

    Raises:
        UserError: no line is a result of a batch.
    """
    replies, failures = dict[str, Reply](), dict[str, NoReplyError]()
    lines = {n: line for n, line in enumerate(text.split("\n"), start=1) if line.strip()}
    unread = list[int]()
    for number, line in lines.items():
        try:
            result = json.loads(line)
            key, response = str(result["custom_id"]), result.get("response") or {}
            status, body = response.get("status_code"), response.get("body")
        except (ValueError, LookupError, TypeError, AttributeError):
            unread.append(number)
            continue
        try:
            # None at all for a request whose turn never came, and, at some servers, for any reply
            if str(status) != "200" and (status is not None or result.get("error") or not body):
                raise refusal(result.get("error") or body, status)
            replies[key] = read_reply(body, mode)
        except NoReplyError as error:
            if error.status == "filtered":
                replies[key] = filtered(str(error))
            else:
                failures[key] = error
    if not unread:
        return replies, failures, ""
    if len(unread) == len(lines):
        raise UserError(
            "not a result of a batch",
            where=f"{where}, line {unread[0]}",
            found=redacted(lines[unread[0]])[:80],
            expected="the output file of a batch, with a custom_id in every line",
        )
    harm = f"{where}, line {unread[0]} is no result ({len(unread)} of {len(lines)} lines)"
    return replies, failures, harm
