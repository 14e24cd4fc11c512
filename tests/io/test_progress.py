"""Progress in a log: few plain lines, true numbers."""

import pytest

from em_geometry import progress
from em_geometry.progress import Progress


def test_lines_of_a_resumed_run_and_none_after_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Progress("train", total=100, done=20, unit="steps") as bar:
        for _ in range(8):
            clock[0] += 5
            bar.advance(10)
    with pytest.raises(RuntimeError), Progress("train", total=2):
        raise RuntimeError
    assert capsys.readouterr().err.splitlines() == [
        "train: 20 of 100 steps already done",
        "train: 50 of 100 steps, 2.0/s, 25 s left",
        "train: 80 of 100 steps, 2.0/s, 10 s left",
        "train: 100 of 100 steps in 40 s",
    ]
