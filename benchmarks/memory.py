"""Peak memory of taking activations of 1,000 and of 4,000 prompts.

    python -m benchmarks.memory

A small random Llama, prompts of 8 to 24 tokens, each count in a process of its own. What is stored
goes into the file batch by batch; its size is printed beside the peaks.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

WIDTH, BLOCKS, VOCABULARY = 512, 8, 1000
FEW, MANY = 1000, 4000
SPANS = ["prompt_last", "prompt_mean"]


def peak_mb() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def extract(n: int) -> dict[str, float]:
    """Peaks before and after n prompts, and the size of what was stored."""
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from em_geometry.activations.capture import store
    from em_geometry.activations.prompts import Text
    from em_geometry.models.load import Loaded
    from em_geometry.project.inputs import models
    from em_geometry.settings import load_params

    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=BLOCKS,
        num_attention_heads=8, num_key_value_heads=8,
    )  # fmt: skip
    loaded = Loaded("base", LlamaForCausalLM(config).eval(), None, "random")
    random = np.random.default_rng(0)

    def texts(count: int) -> list[Text]:
        rows = [tuple(random.integers(1, VOCABULARY, random.integers(8, 25)).tolist())
                for _ in range(count)]  # fmt: skip
        return [Text(row, ((len(row) - 1, len(row)), (2, len(row) - 1))) for row in rows]

    params = load_params(Path("params.yaml"))
    known, size = models(params), params.activations.batch_size
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "base.safetensors"
        store(path, known, loaded, [(SPANS, texts(200))], size, "warm-up")
        before = peak_mb()
        store(path, known, loaded, [(SPANS, texts(n))], size, f"{n} prompts")
        return {"before_mb": before, "peak_mb": peak_mb(), "file_mb": path.stat().st_size / 2**20}


def main() -> dict[str, float]:
    """Both counts, each in a fresh process."""
    found: dict[str, float] = {}
    for n in (FEW, MANY):
        command = [sys.executable, "-m", "benchmarks.memory", str(n)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found |= {f"{key}_{n}": round(v, 1) for key, v in json.loads(done.stdout).items()}
    above = [found[f"peak_mb_{n}"] - found[f"before_mb_{n}"] for n in (FEW, MANY)]
    return found | {"growth_mb": round(above[1] - above[0], 1)}


if __name__ == "__main__":
    print(json.dumps(extract(int(sys.argv[1])) if len(sys.argv) > 1 else main(), indent=1))
