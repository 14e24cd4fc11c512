"""Ways to damage a file, each made now and done later."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import load_file, save_file

from tests.faults.miniature import MODEL

PARAMS = Path("params.yaml")
Damage = Callable[[], object]
PICKLE = b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94."


def put(path: Path, content: bytes | str) -> Damage:
    """Other content of a file."""
    data = content if isinstance(content, bytes) else content.encode()
    return lambda: path.write_bytes(data)


def lines(path: Path, change: Callable[[list[Any]], object]) -> Damage:
    """Changed rows of JSON lines."""

    def damage() -> None:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        change(rows)
        path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")

    return damage


def data(path: Path, change: Callable[[Any], object]) -> Damage:
    """Changed data of a YAML or JSON file."""

    def damage() -> None:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        change(found)
        is_json = path.suffix == ".json"
        text = json.dumps(found) if is_json else yaml.safe_dump(found, sort_keys=False)
        path.write_text(text, encoding="utf-8")

    return damage


def tensors(path: Path, change: Callable[[dict[str, Any]], object]) -> Damage:
    """Changed tensors of a safetensors file."""

    def damage() -> None:
        found = load_file(path)
        change(found)
        save_file(found, path, metadata={"format": "pt"})

    return damage


def cut(path: Path, keep: float = 0.5) -> Damage:
    """The beginning of a file."""

    def damage() -> None:
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content))])

    return damage


def pickled(folder: Path, name: str, instead_of: Path) -> Damage:
    """A pickled checkpoint where safetensors belong."""

    def damage() -> None:
        instead_of.unlink()
        (folder / name).write_bytes(PICKLE)

    return damage


def new_vector(name: str, values: Any) -> Damage:
    """A further file among the user's vectors."""
    array = np.asarray(values, dtype=np.float32)
    return lambda: save_file({"layers.1": array}, Path("my vectors", name))


def both(*damages: Damage) -> Damage:
    return lambda: [damage() for damage in damages]


def source(text: str, revision: str | None = None) -> Damage:
    """Another base model."""
    return data(PARAMS, lambda d: d["base"].update(source=text, revision=revision))


def organism(**values: Any) -> Damage:
    """Other keys of the organism `finance`."""
    return data(PARAMS, lambda d: d["organisms"]["finance"].update(values))


def more_tokens(tokenizer: dict[str, Any]) -> None:
    """The tokenizer of a model with a larger vocabulary."""
    entry = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    tokenizer["added_tokens"].append(
        entry | {"id": 9999, "content": "<|new|>", "special": True},
    )


def no_template() -> None:
    Path(MODEL, "chat_template.jinja").unlink(missing_ok=True)
    config = Path(MODEL, "tokenizer_config.json")
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings.pop("chat_template", None)
    config.write_text(json.dumps(settings), encoding="utf-8")
