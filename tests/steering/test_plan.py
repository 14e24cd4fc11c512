"""The plan counts what the stages do, and the status what they have done."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_steering import loaded, questions, tiny_params

from stages.activations.questions import read_questions
from stages.common.journal import Journal
from stages.common.params import load_params
from stages.steering import plan
from stages.steering.respond import Condition, respond


@pytest.mark.parametrize("profile", ["smol", "smol_full", "llama31_8b"])
def test_every_profile_has_a_plan(profile: str) -> None:
    params = load_params(Path(f"profiles/{profile}.yaml"))
    counts = plan.count(params)
    asked = len(read_questions(params.questions, "evaluation", ""))
    assert counts.answers["baseline"] == 10 * params.baseline.samples * asked
    total = sum(counts.answers.values())
    assert counts.generated_tokens == total * params.sampling.max_new_tokens
    assert counts.judgements == 2 * total
    text = "\n".join(plan.lines(params, counts, (1000.0, 100.0)))
    assert f"{counts.answers['steered']:,}" in text
    assert ("USD" in text) == (profile == "llama31_8b")
    if profile != "smol":
        assert params.steering.focus_samples * asked >= 1160  # the paper's n


def test_status_follows_the_journal(tmp_path: Path) -> None:
    assert "nothing has run" in plan.status()[0]
    asked = questions()
    respond(tiny_params(), loaded(), [Condition(samples=3)], {}, asked, "responses finance")
    (line,) = plan.status()
    assert line.startswith("responses finance")
    assert "6 of 6" in line
    assert "done" in line
    with Journal("x") as journal, pytest.raises(KeyboardInterrupt):
        batches = [[1, 2], [3, 4]]

        def work(batch: list[int]) -> list[int]:
            if 3 in batch:
                raise KeyboardInterrupt
            return batch

        journal.fill("half", batches, str, work)
    (half,) = [line for line in plan.status() if line.startswith("half")]
    assert "2 of 4" in half
    assert "min left" in half
