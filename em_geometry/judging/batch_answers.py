"""What Batch APIs say of batches, in a form that differs by server: one of them, or a list."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Self

from em_geometry.errors import UserError, redacted
from em_geometry.judging.replies import said

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
        found=redacted(answer if isinstance(answer, str) else json.dumps(answer))[:80],
        expected=f"{expected}, in the form of OpenAI's Batch API",
        hint="judge one by one: make rejudge, or em-geometry rejudge --answers <file>",
    )


def _parsed(answer: Any) -> Any:
    """JSON that its endpoint does not declare as such comes as text."""
    if isinstance(answer, str):
        with suppress(ValueError):
            return json.loads(answer)
    return answer
