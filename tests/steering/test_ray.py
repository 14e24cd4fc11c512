"""Errors of Ray workers reach the user; tests/e2e has that their bytes are those of one process."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from em_geometry import engine
from em_geometry.errors import UserError
from em_geometry.settings import Workers

ray = pytest.importorskip("ray", reason="RAY IS NOT INSTALLED: the Ray engine is not tested here")


def refusing() -> Callable[[Any], Any]:
    def do(batch: Any) -> Any:
        if batch == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise UserError("the vector is zero", where=str(batch))

    return do


@pytest.mark.slow
def test_errors_come_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers import what the tests import, and live in a folder of their own."""
    here, before = Path(__file__), os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{here.parent}:{here.parents[2]}:{before}")
    monkeypatch.chdir(tmp_path)
    over = engine.spread(Workers(engine="ray", number=2), 1, refusing)
    try:
        assert over is not None
        with pytest.raises(UserError, match="is zero"):
            list(over([1, 2]))
        with pytest.raises(UserError, match="ends every worker"):
            list(over(["kill"]))
    finally:
        ray.shutdown()
        engine.cluster.cache_clear()
