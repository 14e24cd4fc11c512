"""A file is read in one sitting."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
LONGEST = 400


def test_no_file_is_long() -> None:
    files = [
        f for folder in ("stages", "tests", "benchmarks") for f in (ROOT / folder).rglob("*.py")
    ]
    assert len(files) > 100
    lines = {str(f.relative_to(ROOT)): len(f.read_text("utf-8").splitlines()) for f in files}
    assert not {name: n for name, n in lines.items() if n > LONGEST}
