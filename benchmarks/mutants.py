"""How many small changes of the mathematics its fast tests notice: `make mutants`.

    python -m benchmarks.mutants [--sample 200] [--seed 1] [--folder transfer]

mutmut changes one operator, number, argument or string at a time ([tool.mutmut] in
pyproject.toml says where) and runs the tests that reach it. The whole set takes hours, so each
folder's mutants are sampled; the sample, not the tests, depends on the seed. Writes the folders
that were run into benchmarks/mutants.json, where the others keep what they had.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
from collections import Counter
from pathlib import Path

from scipy.stats import beta

WORK, SUMMARY = Path("mutants"), Path(__file__).with_name("mutants.json")
FOLDERS = ("geometry", "judging", "transfer")
SMALLEST = "em_geometry.geometry.trees.*"  # mutmut makes all mutants before it runs any
OUTCOMES = {None: "not run", 0: "survived", 1: "killed", 3: "killed", 5: "untested", 33: "untested"}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


def check(names: list[str]) -> None:
    """Run the tests on these mutants; mutmut notes the exit codes under `WORK`."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | ONE_THREAD
    command = ["mutmut", "run", "--max-children", "1", *names]
    subprocess.run(command, env=environment, check=True)


def results(folder: str) -> dict[str, int | None]:
    """Exit code of pytest by mutant of a folder, None where it was not run."""
    found: dict[str, int | None] = {}
    for path in sorted((WORK / "em_geometry" / folder).glob("*.meta")):
        found |= json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
    return found


def sample(folder: str, size: int, seed: int) -> list[str]:
    """`size` mutants of a folder, all of them when there are no more; in one order."""
    names = sorted(results(folder))
    return sorted(random.Random(seed).sample(names, min(size, len(names))))


def summary(chosen: dict[str, list[str]], seed: int) -> dict[str, object]:
    """Outcomes by folder and module, with the exact 95 % interval of the share killed."""
    found: dict[str, object] = {}
    for folder, names in chosen.items():
        codes = results(folder)
        outcomes = {name: OUTCOMES.get(codes[name], "timeout") for name in names}
        modules: dict[str, Counter[str]] = {}
        for name, outcome in outcomes.items():
            modules.setdefault(name.split(".")[2], Counter())[outcome] += 1
        n = len(names)
        killed = sum(outcome in ("killed", "timeout") for outcome in outcomes.values())
        found[folder] = {
            "seed": seed,
            "mutants": len(codes),
            "sampled": n,
            "killed_pct": round(100 * killed / n, 1),
            "killed_pct_low": round(100 * float(beta.ppf(0.025, killed, n - killed + 1)), 1),
            "killed_pct_high": round(100 * float(beta.ppf(0.975, killed + 1, n - killed)), 1)
            if killed < n
            else 100.0,
            "modules": {m: dict(sorted(c.items())) for m, c in sorted(modules.items())},
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sample", type=int, default=200, help="mutants a folder")
    parser.add_argument("--seed", type=int, default=1, help="which mutants")
    parser.add_argument("--folder", choices=FOLDERS, action="append", help="default: all")
    options = parser.parse_args()
    check([SMALLEST])
    chosen = {f: sample(f, options.sample, options.seed) for f in options.folder or FOLDERS}
    for names in chosen.values():
        check(names)
    known = json.loads(SUMMARY.read_text(encoding="utf-8")) if SUMMARY.exists() else {}
    text = json.dumps(known | summary(chosen, options.seed), indent=1) + "\n"
    SUMMARY.write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
