"""Files of OpenAI's Batch API: requests out, results in, both of them JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from em_geometry.errors import UserError
from em_geometry.io.files import write_text
from em_geometry.judging.client_chat import (
    MalformedReplyError,
    Mode,
    Reply,
    read_reply,
    request_body,
)
from em_geometry.judging.openai_judge import SPENT_KEY, OpenAIJudge, Unit

URL: Final = "/v1/chat/completions"
MOST_REQUESTS = 50_000  # in one file, by the Batch API's rules
MOST_BYTES = 190_000_000  # the rule is 200 MB
PRICE = 0.5  # of what the same requests cost one by one


def request_lines(judge: OpenAIJudge, units: Iterable[Unit], mode: Mode) -> Iterator[str]:
    """Lines of a batch file; `custom_id` is the reply's key in the journal."""
    for unit in units:
        body = request_body(str(judge.params.model), judge.prompt(unit), mode, unit.sample)
        line = {"custom_id": unit.key, "method": "POST", "url": URL, "body": body}
        yield json.dumps(line, ensure_ascii=False)


def write_files(folder: Path, lines: Iterable[str]) -> list[Path]:
    """Writes `batch-<n>.jsonl` files that keep to the Batch API's limits."""
    parts: list[list[str]] = []
    size = MOST_BYTES
    for line in lines:
        length = len(line.encode()) + 1
        if size + length > MOST_BYTES or len(parts[-1]) == MOST_REQUESTS:
            parts.append([])
            size = 0
        parts[-1].append(line)
        size += length
    paths = [folder / f"batch-{number}.jsonl" for number in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        write_text(path, "\n".join(part) + "\n")
    return paths


def read_results(text: str, mode: Mode, where: str) -> tuple[dict[str, Reply], dict[str, str]]:
    """Replies, and reasons for missing ones, by key, from an output or error file.

    Raises:
        UserError: a line is no result of a batch.
    """
    replies: dict[str, Reply] = {}
    failures: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            result = json.loads(line)
            key, response = str(result["custom_id"]), result.get("response") or {}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                "not a result of a batch",
                where=f"{where}, line {number}",
                found=line[:80],
                expected="the output file of a batch, with a custom_id in every line",
            ) from None
        if response.get("status_code") != 200:
            said = result.get("error") or (response.get("body") or {}).get("error") or {}
            failures[key] = f"status {response.get('status_code')}: {said.get('message')}"
            continue
        try:
            replies[key] = read_reply(response.get("body"), mode)
        except MalformedReplyError as error:
            failures[key] = str(error)
    return replies, failures


def keep(judge: OpenAIJudge, replies: dict[str, Reply], marker: str | None = None) -> None:
    """Journals replies, what they cost, and that their batch is collected: all or nothing."""
    there = judge.journal.get(list(replies))
    for key, reply in replies.items():
        if key not in there:
            judge.budget.settle(0.0, PRICE * judge.budget.cost(*reply["tokens"]))
    units: dict[str, Any] = dict(replies)
    if judge.budget.priced:
        units[SPENT_KEY] = judge.budget.spent
    if marker is not None:
        units[marker] = True
    judge.journal.put(units)
