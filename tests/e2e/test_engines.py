"""The long stages on the real models: two Ray workers write the files that `dvc repro` wrote."""

import importlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from em_geometry import engine
from em_geometry.settings import Params, Workers, load_params

pytest.importorskip("ray", reason="RAY IS NOT INSTALLED: the Ray engine is not tested here")
pytestmark = pytest.mark.slow


class Mortal(engine.Worker):
    """Ends its own process in the middle of the work, once for every file `kill`."""

    def do(self, number: int, make: engine.Make, batch: Any) -> Any:
        self.seen = getattr(self, "seen", 0) + 1
        if self.seen > 1 and Path("kill").is_file():
            Path("kill").unlink(missing_ok=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().do(number, make, batch)


@pytest.fixture(scope="module")
def params(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Params]:
    """The reduced run's params, to be done again by two workers, without its journal."""
    place, before = Path.cwd(), os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = f"{Path(__file__).parent}:{run}:{before}"
    os.environ["EMGEOMETRY_JOURNAL"] = str(tmp_path_factory.mktemp("journal"))
    os.chdir(run)
    found = load_params(Path("params.yaml"))
    settings = Workers(engine="ray", number=2)
    worker, engine.Worker = engine.Worker, Mortal  # type: ignore[misc]
    yield found.model_copy(update={"workers": settings})
    engine.Worker = worker  # type: ignore[misc]
    os.chdir(place)
    os.environ["PYTHONPATH"] = before
    del os.environ["EMGEOMETRY_JOURNAL"]
    import ray

    ray.shutdown()
    engine.cluster.cache_clear()


STAGES = (
    "activations", "baseline_responses", "responses", "baseline_judgements", "judgements",
)  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_engines_agree_even_when_a_worker_is_killed(params: Params, stage: str) -> None:
    folder = Path("data", stage.replace("baseline_", "baseline/"))
    # Two models are enough for workers to change from one to the other, where a stage takes names.
    named = params.targets[:2] if stage in ("activations", "responses") else []
    files = [p for p in folder.iterdir() if p.stem in (named or params.targets)]
    before = {path.name: path.read_bytes() for path in files}
    assert len(before) >= 2
    shares = engine.cluster(params.workers, params.run.threads).shares
    shares.clear()
    Path("kill").touch()
    for path in files:
        path.unlink()
    try:
        importlib.import_module(f"stages.{stage}").main(params, *named)
        after = {path.name: path.read_bytes() for path in files if path.is_file()}
    finally:
        for path in files:
            path.write_bytes(before[path.name])
    assert not Path("kill").exists(), "no worker was killed"
    different = [name for name in before if after.get(name) != before[name]]
    assert not different
    assert max(shares.values()) <= 0.8 * shares.total(), dict(shares)
