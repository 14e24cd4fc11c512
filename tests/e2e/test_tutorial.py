"""The tutorial runs as it stands, in two minutes, and gives what is printed in it."""

import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = ROOT / "docs/tutorial.ipynb"

pytestmark = pytest.mark.slow
nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")


def printed(notebook: Any) -> list[str]:
    """What each cell prints; pictures differ by fonts."""
    cells = (cell for cell in notebook.cells if cell.cell_type == "code")
    return ["".join(o.get("text", "") for o in cell.outputs) for cell in cells]


def test_it_gives_what_is_printed_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(TUTORIAL, as_version=4)
    expected, start = printed(notebook), time.monotonic()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    place = {"metadata": {"path": str(TUTORIAL.parent)}}
    nbclient.NotebookClient(notebook, timeout=120, resources=place).execute()
    assert printed(notebook) == expected
    assert time.monotonic() - start < 120
