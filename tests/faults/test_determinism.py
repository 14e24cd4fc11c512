"""What answers must not depend on: the batches, and the machine's number of cores."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.activations.questions import read_questions
from stages.common.artifacts import read_parquet
from stages.common.params import Params, load_params
from stages.organisms.load import load, setup_torch
from stages.steering.respond import respond
from stages.steering.selected import read_selected
from stages.steering.steer import plan
from tests.faults.killing import Repro

TARGET = "finance"


@pytest.mark.faults
@pytest.mark.parametrize("size", [7, 1])
def test_other_batches_give_the_same_tokens(
    undisturbed: Repro, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every steered answer of one target, on the real model: text, tokens and ending."""
    monkeypatch.chdir(undisturbed.folder)
    monkeypatch.setenv("EMGEOMETRY_JOURNAL", str(tmp_path / "journal"))
    params = load_params(Path("params.yaml"))
    sampling = params.sampling.model_copy(update={"batch_size": size})
    params = params.model_copy(update={"sampling": sampling})
    conditions, vectors = plan(params, TARGET, read_selected())
    questions = read_questions(params.questions, "evaluation", params.base.system_prompt)
    found = respond(params, load(params, TARGET), conditions, vectors, questions, "batches")
    wanted = read_parquet(Path(f"data/responses/{TARGET}.parquet"))
    assert len(wanted) > 16
    assert found.equals(wanted)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_those_of_the_params(tiny_params: Params, threads: int) -> None:
    import torch

    before = torch.get_num_threads()
    run = tiny_params.run.model_copy(update={"threads": threads})
    try:
        setup_torch(tiny_params.model_copy(update={"run": run}))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
