"""Progress in a log: few plain lines, true numbers."""

import pytest

from em_geometry.progress import Progress


def test_a_resumed_run_begins_where_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("train", total=100, done=20, unit="steps") as bar:
        for _ in range(8):
            bar.advance(10)
    lines = capsys.readouterr().err.splitlines()
    said = [line.strip().partition(" steps")[0] for line in lines if line.strip()]
    assert said == ["train: 20 of 100", "train: 100 of 100"]
