"""What the code may not do: run data as code, or a shell. Ruff looks; this looks that it does."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FORBIDDEN = """\
import pickle
from joblib import load
import torch; torch.load(p)
import torch; torch.load(p, weights_only=flag)
from torch import save
import yaml; yaml.load(t, Loader=yaml.Loader)
from yaml import unsafe_load
import subprocess; subprocess.run(c, shell=True)
import subprocess; subprocess.getoutput(c)
import os; os.system(c)
def f(): eval(c)
def f(): exec(c)
"""
# What ruff has no rule for; both may be given as False only.
SWITCH = re.compile(r"\b(trust_remote_code|allow_pickle)\b['\"]?\s*[=:]\s*(?!False\b)\S+")


def test_ruff_refuses_pickle_shells_and_foreign_code() -> None:
    command = [sys.executable, "-m", "ruff", "check", "--output-format=json"]
    found = subprocess.run(
        [*command, "--stdin-filename=em_geometry/x.py", "-"],
        cwd=ROOT, input=FORBIDDEN, text=True, capture_output=True,
    )  # fmt: skip
    offences = [(o["location"]["row"], o["code"]) for o in json.loads(found.stdout)]
    lines = {row for row, code in offences if code == "TID251" or code.startswith("S")}
    assert lines == set(range(1, len(FORBIDDEN.splitlines()) + 1))


def test_no_switch_lets_foreign_code_run() -> None:
    for code in ("f(trust_remote_code=True)", "f(allow_pickle=flag)", "{'trust_remote_code': 1}"):
        assert SWITCH.search(code)
    files = [
        p for top in ("em_geometry", "stages", "benchmarks") for p in (ROOT / top).rglob("*.py")
    ]
    assert len(files) > 50
    found = {p.name: SWITCH.findall(p.read_text(encoding="utf-8")) for p in files}
    assert [name for name, hits in found.items() if hits] == []
