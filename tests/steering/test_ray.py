"""Two Ray workers give the bytes that this process gives, even when one is killed."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from test_respond import CONDITIONS, VECTORS
from tiny_steering import loaded, questions, tiny_params

import em_geometry.steering.answers as module
from em_geometry import engine
from em_geometry.errors import UserError
from em_geometry.io.files import write_parquet
from em_geometry.project.inputs import models
from em_geometry.settings import Workers
from em_geometry.steering.answers import respond

pytest.importorskip("ray", reason="RAY IS NOT INSTALLED: the Ray engine is not tested here")
RUN: dict[str, Any] = {"device": "cpu", "threads": 1}
TWO = Workers(engine="ray", number=2)


def tiny_worker(models: Any, slug: str, *how: Any) -> Callable[[Sequence[Any]], Any]:
    """Samples with the tiny model; kills its own process where a file says so."""
    work = partial(module._sampled, loaded(slug), *how)

    def do(batch: Sequence[Any]) -> Any:
        time.sleep(0.2)  # so that both workers get their share of these tiny batches
        for victim in Path.cwd().glob("kill*"):
            victim.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return work(batch)

    return do


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Workers import what the tests import, and live in a folder of their own."""
    before, place = os.environ.get("PYTHONPATH", ""), Path.cwd()
    here, folder = Path(__file__), tmp_path_factory.mktemp("workers")
    os.environ["PYTHONPATH"] = f"{here.parent}:{here.parents[2]}:{before}"
    os.chdir(folder)
    engine.cluster(TWO, 1)
    os.chdir(place)
    yield folder
    os.environ["PYTHONPATH"] = before
    import ray

    ray.shutdown()
    engine.cluster.cache_clear()


def table(path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> bytes:
    sampling = {"temperature": 1.0, "max_new_tokens": 6, "batch_size": 1}
    params = tiny_params(run=RUN, workers={"engine": how, "number": 2}, sampling=sampling)
    monkeypatch.setenv("EMGEOMETRY_JOURNAL", str(path.parent / path.stem))
    monkeypatch.setattr(module, "_worker", tiny_worker)
    plan = models(params), loaded(), CONDITIONS, VECTORS, questions(), params.sampling, "test"
    frame = respond(*plan, workers=params.workers)
    write_parquet(path, frame, {})
    return path.read_bytes()


@pytest.mark.slow
def test_engines_agree_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Path
) -> None:
    local = table(tmp_path / "local.parquet", monkeypatch, "local")
    shares = engine.cluster(TWO, 1).shares
    assert not shares
    assert table(tmp_path / "ray.parquet", monkeypatch, "ray") == local
    assert sum(shares.values()) == 12
    assert max(shares.values()) <= 0.8 * 12
    (cluster / "kill").touch()
    assert table(tmp_path / "killed.parquet", monkeypatch, "ray") == local
    assert not (cluster / "kill").exists()
    assert sum(shares.values()) == 24


def refusing() -> Callable[[Any], Any]:
    def do(batch: Any) -> Any:
        if batch == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise UserError("the vector is zero", where=str(batch))

    return do


@pytest.mark.slow
def test_errors_come_through() -> None:
    over = engine.spread(TWO, 1, refusing)
    assert over is not None
    with pytest.raises(UserError, match="is zero"):
        list(over([1, 2]))
    with pytest.raises(UserError, match="ends every worker"):
        list(over(["kill"]))
