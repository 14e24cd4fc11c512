"""The neutral and harmful prompts that activations are read on (paper sec. 2.1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from em_geometry.errors import UserError
from em_geometry.io.files import read_jsonl
from em_geometry.settings import Prompts


class _Row(BaseModel):
    id: str
    topic: str
    pair: str
    prompt: str


@dataclass(frozen=True)
class ActivationPrompt:
    """A prompt with its kind (neutral or harmful), topic (cluster of the bootstrap) and pair."""

    id: str
    kind: str
    topic: str
    pair: str
    prompt: str


def read_prompts(params: Prompts) -> list[ActivationPrompt]:
    """Neutral prompts, then harmful ones; UserError on duplicates and empty texts."""
    prompts = []
    seen: set[str] = set()
    for kind, name in (("neutral", params.neutral), ("harmful", params.harmful)):
        rows = read_jsonl(Path(name), _Row)
        for row in rows:
            if row.id in seen or not row.prompt.strip():
                raise UserError(
                    "a prompt's id occurs twice or its text is empty",
                    where=name,
                    found=row.id,
                    expected="distinct ids in both files, and texts",
                )
            seen.add(row.id)
        count = min(params.limit or len(rows), len(rows))
        for row in (rows[i * len(rows) // count] for i in range(count)):  # spread over topics
            prompts.append(ActivationPrompt(kind=kind, **row.model_dump()))
    return prompts
