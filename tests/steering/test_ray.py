"""Two Ray workers give the bytes that this process gives, even when one is killed."""

from __future__ import annotations

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

import stages.steering.respond as module
from stages.common.artifacts import write_parquet
from stages.common.engine import over_ray
from stages.common.errors import UserError
from stages.common.sections import Run
from stages.steering.respond import respond

pytest.importorskip("ray", reason="RAY IS NOT INSTALLED: the Ray engine is not tested here")
RUN = Run(device="cpu", threads=1, engine="ray", workers=2)


def tiny_worker(params: Any, victim: str | None, slug: str) -> Callable[[Sequence[Any]], Any]:
    """Samples with the tiny model; kills its own process once, at its second batch."""
    work = partial(module._sampled, params, loaded(slug))
    seen = []

    def do(batch: Sequence[Any]) -> Any:
        time.sleep(0.2)  # so that both workers get their share of these tiny batches
        seen.append(batch)
        if victim is not None and len(seen) == 2:
            try:
                Path(victim).touch(exist_ok=False)
            except FileExistsError:
                return work(batch)
            os.kill(os.getpid(), signal.SIGKILL)
        return work(batch)

    return do


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Workers import what the tests import."""
    before = os.environ.get("PYTHONPATH", "")
    here = Path(__file__)
    os.environ["PYTHONPATH"] = f"{here.parent}:{here.parents[2]}:{before}"
    yield
    os.environ["PYTHONPATH"] = before
    import ray

    ray.shutdown()


def table(path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, victim: str | None) -> Any:
    shares: dict[int, int] = {}
    run = {"device": "cpu", "threads": 1, "engine": engine, "workers": 2}
    sampling = {"temperature": 1.0, "max_new_tokens": 6, "batch_size": 1}
    params = tiny_params(run=run, sampling=sampling)
    monkeypatch.setenv("EMGEOMETRY_JOURNAL", str(path.parent / path.stem))
    monkeypatch.setattr(module, "_worker", lambda p, slug: None)

    def spread(run: Run, make: Any, batches: Sequence[Any]) -> Iterator[Any]:
        yield from over_ray(run, partial(tiny_worker, params, victim, "base"), batches, shares)

    monkeypatch.setattr(module, "over_ray", spread)
    frame = respond(params, loaded(), CONDITIONS, VECTORS, questions(), "test")
    write_parquet(path, frame, {})
    return path.read_bytes(), shares


@pytest.mark.slow
def test_engines_agree_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local, none = table(tmp_path / "local.parquet", monkeypatch, "local", None)
    assert not none
    whole, shares = table(tmp_path / "ray.parquet", monkeypatch, "ray", None)
    assert whole == local
    assert sum(shares.values()) == 12
    assert min(shares[0], shares[1]) >= 0.2 * 12
    victim = tmp_path / "killed"
    killed, shares = table(tmp_path / "killed.parquet", monkeypatch, "ray", str(victim))
    assert victim.exists()
    assert killed == local
    assert sum(shares.values()) == 12


def refusing() -> Callable[[Any], Any]:
    def do(batch: Any) -> Any:
        raise UserError("the vector is zero", where=str(batch))

    return do


@pytest.mark.slow
def test_a_users_error_comes_through() -> None:
    with pytest.raises(UserError, match="is zero"):
        list(over_ray(RUN, refusing, [1, 2]))
