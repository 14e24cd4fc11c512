"""The library as a stranger meets it: in a clean environment, by the lines that README shows."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## ")[1]
BLOCKS = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
# A tiny random model with as many blocks as a small one.
MODEL = """
import em_geometry, sys
assert em_geometry.__file__.startswith(sys.prefix), em_geometry.__file__
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
config = AutoConfig.from_pretrained("tiny")
config.num_hidden_layers = 16
model = AutoModelForCausalLM.from_config(config).eval()
tokenizer = AutoTokenizer.from_pretrained("tiny")
"""


def test_the_section_comes_first_and_its_parts_are_short() -> None:
    assert SECTION.startswith("As a library")
    assert len(BLOCKS) == 3
    assert all(len(block.split("\n")) - block.count("\n\n") <= 6 for block in BLOCKS)  # 5 and ""


def test_the_lines_run_in_a_folder_without_a_pipeline(
    python: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    names = ("finance", "medical", "profanity", "malicious")
    rows = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)
    save_file(dict(zip(names, rows, strict=True)), tmp_path / "vectors.safetensors")
    (tmp_path / "tiny").symlink_to(tiny_checkpoint)
    done = subprocess.run(
        [python, "-c", "\n".join([MODEL, *BLOCKS, "print(repr(answer))"])],
        cwd=tmp_path, text=True, capture_output=True, env={"HF_HUB_OFFLINE": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    assert "for independence:" in printed and "core found" in printed
    assert re.search(r"\{'aligned': (None|[\d.]+)\} \{'aligned': '(ok|low_mass)'\}", printed)


def test_the_command_is_installed(python: Path, tmp_path: Path) -> None:
    command = [python.with_name("em-geometry"), "analyse", "cosines.csv", "--width", "64"]
    (tmp_path / "cosines.csv").write_text("a,b,c\n1,0.5,0\n0.5,1,0\n0,0,1\n")
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "random ones" in done.stdout
