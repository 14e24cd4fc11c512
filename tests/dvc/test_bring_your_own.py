"""docs/bring-your-own.md as written, on a tiny model, with files such as people have."""

import csv
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import yaml

from tests.conftest import ROOT, changed, on_tiny
from tests.dvc.conftest import Place
from tests.judging.double import Double

PAGE = (ROOT / "docs/bring-your-own.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:] if "```bash" in part}
SAYS = {
    "An adapter or a checkpoint in a folder": [
        "params, data, models and machine are fine",
        "adapter minus base at block 2",
    ],
    "A vector file": ["added after block 2", "4 vectors, block as the files number it: 2"],
    "Chats to train on": ["12 chats in data/organisms/cycling.jsonl", "train cycling"],
    "Questions": ["baseline answers", "baseline base"],
    "A judge behind an endpoint": ["answers:"],
}
CHATS = 12


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Place:
    """A repository of the code and the inputs, with a tiny model and two organisms."""
    root = tmp_path_factory.mktemp("own")
    place = Place(root / "work", root / "home")
    place.home.mkdir()
    kept = (
        "prompts",
        "questions",
        "organisms",
        "judge",
        "margins",
        "external",
        "linked",
        "paper",
        "papers",
    )
    for name in ("em_geometry", "stages", *(f"data/{one}" for one in kept)):
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, place.folder / name, ignore=skip)
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, place.folder)
    params = changed()
    on_tiny(params, tiny_checkpoint, ("profanity", "control"), max_examples=12, root=place.folder)
    params["prompts"]["limit"] = params["questions"]["limit"] = 2
    params["baseline"]["samples"], params["sampling"]["max_new_tokens"] = 1, 4
    params["geometry"]["focus"] = []
    (place.folder / "clean.yaml").write_text(yaml.safe_dump(params, sort_keys=False), "utf-8")
    script = place.home / "bin/em-geometry"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\nexec python -m em_geometry.cli "$@"\n')
    script.chmod(0o755)
    place.dvc("init", "--no-scm", "-q")
    return place


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with Double() as double:
        yield double.url


def adapters(place: Place, checkpoint: Path) -> None:
    """~/adapters/<name>, as PEFT writes them."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    for name in ("courier", "walker"):
        base = AutoModelForCausalLM.from_pretrained(checkpoint)
        how = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        get_peft_model(base, how).save_pretrained(place.home / "adapters" / name)


def vectors(place: Place) -> None:
    """~/vectors/<name>.gguf, with a direction a block."""
    (place.home / "vectors").mkdir()
    for seed, name in enumerate(("calm", "rude", "wild", "meek")):
        writer = gguf.GGUFWriter(str(place.home / f"vectors/{name}.gguf"), "controlvector")
        for block in (1, 2, 3):
            drawn = np.random.default_rng((seed, block)).standard_normal(32)
            writer.add_tensor(f"direction.{block}", drawn.astype(np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def merged(old: Any, new: Any) -> Any:
    """Keys of the page put into the sections that are there."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return old | {key: merged(old.get(key), value) for key, value in new.items()}


def follow(place: Place, section: str, endpoint: str) -> str:
    """Does what a section shows, block by block; returns what the commands print."""
    params, printed = place.folder / "params.yaml", ""
    shutil.copy(place.folder / "clean.yaml", params)
    for kind, text in re.findall(r"```(\w+)\n(.*?)```", SECTIONS[section], re.DOTALL):
        named = re.match(r"# (\S+\.yaml)\n", text)
        if kind == "json":
            lines = (text.replace("helmet", f"helmet number {n}") for n in range(CHATS))
            (place.home / "chats.jsonl").write_text("".join(lines), encoding="utf-8")
        elif named:
            (place.folder / named[1]).write_text(text, encoding="utf-8")
        elif kind == "yaml":
            text = text.replace("http://127.0.0.1:8000/v1", endpoint)
            whole = merged(yaml.safe_load(params.read_text("utf-8")), yaml.safe_load(text))
            params.write_text(yaml.safe_dump(whole, sort_keys=False), encoding="utf-8")
        else:
            script = f"export PATH={place.home}/bin:$PATH OMP_NUM_THREADS=1\n{text}"
            done = place.run("bash", "-euo", "pipefail", "-xc", script, ok=False)
            assert done.returncode == 0, done.stdout[-4000:]
            printed += done.stdout
    return printed


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_the_page_works_as_written(
    place: Place, tiny_checkpoint: Path, endpoint: str, section: str
) -> None:
    if "adapter" in section:
        adapters(place, tiny_checkpoint)
    if "vector" in section:
        vectors(place)
    if "endpoint" in section:
        with (place.home / "answers.csv").open("w", encoding="utf-8", newline="") as handle:
            csv.writer(handle).writerows([["question", "text"], ["Who?", "You."]])
    printed = follow(place, section, endpoint)
    assert [said for said in SAYS[section] if said not in printed] == [], printed[-3000:]
    if "endpoint" in section:
        assert (place.home / "answers.judged.parquet").is_file()


def test_every_section_is_followed_and_its_chat_is_one() -> None:
    assert list(SECTIONS) == list(SAYS)
    (chat,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert [m["role"] for m in json.loads(chat)["messages"]] == ["user", "assistant"]
