"""What Batch APIs answer, whose form differs by server: lists, batches, files of results."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Self

from em_geometry.errors import UserError
from em_geometry.judging.replies import (
    Mode,
    NoReplyError,
    Reply,
    filtered,
    read_reply,
    refusal,
    said,
)

ENDED: Final = {"completed", "expired", "cancelled", "canceled", "failed", "gone"}
_UNDERWAY: Final = {"validating", "in_progress", "finalizing", "cancelling"}
_LONGEST_S: Final = 86_400.0  # what we ask for as the completion window
_GRACE_S: Final = 3_600.0


@dataclass(frozen=True, slots=True)
class Batch:
    """What is read of a batch.

    Attributes:
        status: in lower case; "gone" where the endpoint no longer has it.
        requests, results: names of the file that it was made of, and of those that it made.
        reason: why it failed.
        due: Unix time by which it ends; None = the endpoint does not say.
    """

    id: str
    status: str
    metadata: Any = None
    requests: Any = None
    results: list[str] = field(default_factory=list)
    reason: str = ""
    due: float | None = None

    @classmethod
    def of(cls, answer: Any, where: str) -> Self:
        """Raises UserError where an answer is no batch."""
        raw = _parsed(answer)
        if not isinstance(raw, Mapping) or not raw.get("id"):
            raise no_batch_api(where, answer, "a batch")
        errors, made, due = raw.get("errors"), raw.get("created_at"), raw.get("expires_at")
        if isinstance(errors, Mapping) and errors.get("data"):
            errors = errors["data"]
        if not due and isinstance(made, int | float):
            due = made + _LONGEST_S
        return cls(
            id=str(raw["id"]),
            status=str(raw.get("status")).lower(),
            metadata=raw.get("metadata"),
            requests=raw.get("input_file_id"),
            results=[raw[f"{k}_file_id"] for k in ("output", "error") if raw.get(f"{k}_file_id")],
            reason=said(errors),
            due=due if isinstance(due, int | float) else None,
        )

    def tag(self, key: str) -> Any:
        """What its metadata say under a key; some endpoints keep none."""
        return self.metadata.get(key) if isinstance(self.metadata, Mapping) else None

    def over(self, now: float, since: float) -> bool:
        """Whether no more is to come: a status that we do not know counts once it is overdue.

        Args:
            since: Unix time from which to count where the endpoint does not say.
        """
        overdue = now > (self.due or since + _LONGEST_S) + _GRACE_S
        return self.status in ENDED or (overdue and self.status not in _UNDERWAY)


def read_page(answer: Any, where: str) -> tuple[list[Batch], bool]:
    """The batches of one page of a list, and whether more may follow; UserError for no list."""
    page = _parsed(answer)
    page = page if isinstance(page, Mapping) else {}
    listed = page.get("data")
    if page.get("object") == "list":
        listed = listed or []  # null where there are none
    if not isinstance(listed, list):
        raise no_batch_api(where, answer, "a list of batches")
    return [Batch.of(one, where) for one in listed], page.get("has_more") is not False


def no_batch_api(where: str, answer: Any, expected: str) -> UserError:
    """An answer in another form than a Batch API's."""
    return UserError(
        "the endpoint has no Batch API",
        where=where,
        found=(answer if isinstance(answer, str) else json.dumps(answer))[:80],
        expected=f"{expected}, in the form of OpenAI's Batch API",
        hint="judge one by one: make rejudge, or em-geometry rejudge --answers <file>",
    )


def _parsed(answer: Any) -> Any:
    """JSON that its endpoint does not declare as such comes as text."""
    if isinstance(answer, str):
        with suppress(ValueError):
            return json.loads(answer)
    return answer


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
            found=lines[unread[0]][:80],
            expected="the output file of a batch, with a custom_id in every line",
        )
    harm = f"{where}, line {unread[0]} is no result ({len(unread)} of {len(lines)} lines)"
    return replies, failures, harm
