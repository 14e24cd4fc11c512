"""The tutorial runs as it stands, in two minutes, and gives what is printed in it."""

from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
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
    expected, before = printed(notebook), getrusage(RUSAGE_CHILDREN)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    place = {"metadata": {"path": str(TUTORIAL.parent)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=place).execute()
    assert printed(notebook) == expected
    after = getrusage(RUSAGE_CHILDREN)  # of processor time: other work may be going on
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 120
