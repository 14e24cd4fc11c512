"""Extraction and steered generation against steering-vectors and repeng, in their environment.

`python -m benchmarks.peers extraction|steering FOLDER`: FOLDER holds the base model. Rounds of the
contestants are interleaved; medians are printed as JSON.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from em_geometry.activations.blocks import block_stack
from em_geometry.activations.capture import capture
from em_geometry.activations.prompts import Text, read_questions
from em_geometry.models.chat import end_of_turn, padded, render, sorted_batches
from em_geometry.settings import Sampling, load_params
from em_geometry.steering.answers import Row, sample
from em_geometry.steering.conditions import Intervention

ROUNDS = 3
PAIRS, BATCH = 64, 16  # all prompts of the small profile, its batch size
CONDITIONS = int(os.environ.get("BENCH_CONDITIONS", "54"))  # 6 vectors x 9 targets, as in the paper
NEW_TOKENS, LAYERS, COEFFICIENT = 16, (14, 18), 20.0


def interleaved(contestants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            with redirect_stderr(io.StringIO()):  # their progress bars
                run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(s) for name, s in seconds.items()}


def extraction(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Last-token means of all blocks of the same prompts."""
    from repeng import ControlVector, DatasetEntry
    from repeng.extract import batched_get_hiddens
    from steering_vectors import train_steering_vector

    texts = [
        json.loads(line)["prompt"]
        for kind in ("harmful", "neutral")
        for line in Path(f"data/prompts/{kind}.jsonl").read_text().splitlines()[:PAIRS]
    ]
    pairs = list(zip(texts[:PAIRS], texts[PAIRS:], strict=True))
    ids = [tuple(tokenizer(t)["input_ids"]) for t in texts]
    batches = sorted_batches([len(i) for i in ids], BATCH)

    def forward() -> None:
        for batch in batches:
            tokens, mask = padded([ids[i] for i in batch], "right", "cpu")
            with torch.no_grad():
                block_stack(model)(input_ids=tokens, attention_mask=mask, use_cache=False)

    def ours() -> np.ndarray:
        last = np.zeros((len(ids), model.config.num_hidden_layers, model.config.hidden_size))
        for batch in batches:
            part = [Text(ids[i], ((len(ids[i]) - 1, len(ids[i])),)) for i in batch]
            last[batch] = capture(model, part)[0][:, 0].numpy()
        return last

    dataset = [DatasetEntry(a, b) for a, b in pairs]
    contestants: dict[str, Callable[[], Any]] = {
        "forward": forward,
        "ours": ours,
        "steering_vectors": lambda: train_steering_vector(model, tokenizer, pairs),
        "repeng": lambda: ControlVector.train(model, tokenizer, dataset),
    }
    for size in (8, 16):
        contestants[f"steering_vectors_{size}"] = partial(
            train_steering_vector, model, tokenizer, pairs, batch_size=size
        )
        contestants[f"repeng_{size}"] = partial(
            ControlVector.train, model, tokenizer, dataset, batch_size=size
        )
    with redirect_stderr(io.StringIO()):
        mine = ours()
        theirs = train_steering_vector(model, tokenizer, pairs).layer_activations
        hidden = batched_get_hiddens(model, tokenizer, texts, [5, 20], 16)
    difference = mine[:PAIRS].mean(0) - mine[PAIRS:].mean(0)
    gaps = [np.abs(difference[k] - v.numpy()).max() for k, v in theirs.items()]
    gaps += [np.abs(mine[:, k] - hidden[k]).max() for k in (5, 20)]
    scale = np.abs(mine[:, :-1]).max()
    tokens = sum(map(len, ids))
    found: dict[str, Any] = {k: tokens / s for k, s in interleaved(contestants, ROUNDS).items()}
    return found | {
        "gap": float(max(gaps)),
        "relative_gap": float(max(gaps) / scale),
        "n": len(ids),
    }


def steering(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Steered answers per second: conditions x 8 questions, ours in shared batches."""
    from steering_vectors import SteeringVector

    params = load_params(Path("params.yaml"))
    asked = read_questions(params.questions, params.base.system_prompt)
    ids = [render(tokenizer, q.prompt, q.system).ids for q in asked]
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((CONDITIONS, model.config.hidden_size)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    sampling = Sampling(temperature=1.0, max_new_tokens=NEW_TOKENS)
    end = end_of_turn(tokenizer, model.config)
    hows = [Intervention(v, LAYERS[i % 2], COEFFICIENT) for i, v in enumerate(vectors)]
    rows = [Row(p, 1000 * c + q, h) for q, p in enumerate(ids) for c, h in enumerate(hows)]
    tokens, mask = padded(ids, "left", "cpu")

    def ours() -> None:
        for start in range(0, len(rows), params.sampling.batch_size):
            sample(model, rows[start : start + params.sampling.batch_size], sampling, end)

    def peer() -> None:
        for how in hows:
            vector = SteeringVector({how.layer: torch.from_numpy(how.vector)})
            with vector.apply(model, multiplier=how.coefficient), torch.no_grad():
                model.generate(
                    input_ids=tokens, attention_mask=mask, do_sample=True, temperature=1.0,
                    top_k=0, max_new_tokens=NEW_TOKENS, pad_token_id=0,
                )  # fmt: skip

    one = rows[: params.sampling.batch_size]
    free = [Row(r.ids, r.stream) for r in one]
    hook = interleaved(
        {
            "free": lambda: sample(model, free, sampling, frozenset(), "response"),
            "hooked": lambda: sample(model, one, sampling, frozenset(), "response"),
        },
        ROUNDS,
    )
    seconds = interleaved({"ours": ours, "peer": peer}, 1)
    found: dict[str, Any] = {k: len(rows) / s for k, s in seconds.items()}
    return found | {"free": 1 / hook["free"], "hooked": 1 / hook["hooked"], "n": len(rows)}


def main() -> None:
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(sys.argv[2], dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    print(
        json.dumps({"extraction": extraction, "steering": steering}[sys.argv[1]](model, tokenizer))
    )


if __name__ == "__main__":
    main()
