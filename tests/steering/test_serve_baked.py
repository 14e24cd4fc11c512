"""A baked checkpoint is an ordinary one: `transformers serve` answers as the hooked model does."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from openai import OpenAI
from transformers import AutoModelForCausalLM

from em_geometry.models.chat import render
from em_geometry.steering.conditions import Intervention
from em_geometry.steering.formats import bake, biases
from em_geometry.steering.hooks import steering_rows

for package in ("fastapi", "uvicorn"):
    pytest.importorskip(
        package, reason=f"{package} IS NOT INSTALLED: `transformers serve` needs it"
    )
pytestmark = pytest.mark.slow
QUESTION, NEW = "How do I keep my tomatoes alive?", 12
SERVE = "from transformers.cli.transformers import main; main()"


@pytest.fixture
def steering(tiny_model: Any) -> Intervention:
    vector = np.random.default_rng(1).standard_normal(tiny_model.config.hidden_size)
    return Intervention((vector / np.linalg.norm(vector)).astype(np.float32), 1, 6.0)


@pytest.fixture
def endpoint(
    tiny_checkpoint: Path, tiny_tokenizer: Any, steering: Intervention, tmp_path: Path
) -> Iterator[tuple[str, str]]:
    """Address of the server, and the folder that it serves."""
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    bake(model, biases(model, [steering])).save_pretrained(tmp_path / "baked")
    tiny_tokenizer.save_pretrained(tmp_path / "baked")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = str(tmp_path / "baked")
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, "serve", folder, *options],
        env=os.environ | {"HF_HUB_OFFLINE": "1"}, stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        for _ in range(180):
            assert server.poll() is None, (tmp_path / "log").read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1", folder
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def greedy(model: Any, tokenizer: Any, how: Intervention | None) -> str:
    """The answer at temperature 0, token by token, as text."""
    ids = list(render(tokenizer, QUESTION, "").ids)
    start = len(ids)
    for _ in range(NEW):
        row = torch.tensor([ids])
        with torch.no_grad(), steering_rows(model, [how]) as acts:
            acts.mask = torch.ones_like(row).bool()
            ids.append(int(model(input_ids=row).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    return str(tokenizer.decode(ids[start:], skip_special_tokens=True))


def test_the_served_checkpoint_answers_as_the_hooked_model(
    endpoint: tuple[str, str], tiny_model: Any, tiny_tokenizer: Any, steering: Intervention
) -> None:
    address, folder = endpoint
    client = OpenAI(base_url=address, api_key="none", max_retries=0, timeout=120)
    reply = client.chat.completions.create(
        model=folder,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=NEW,
    )
    expected = greedy(tiny_model, tiny_tokenizer, steering)
    assert len(expected) > 3
    assert expected != greedy(tiny_model, tiny_tokenizer, None)
    assert reply.choices[0].message.content == expected
