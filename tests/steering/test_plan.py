"""The plan counts what the stages do, and the status what they have done."""

import json
from pathlib import Path

import pytest
from tiny_steering import loaded, questions, tiny_params

from em_geometry.activations.prompts import read_questions
from em_geometry.io.journal import Journal
from em_geometry.project import plan
from em_geometry.project.inputs import models
from em_geometry.settings import load_params
from em_geometry.steering.answers import respond
from em_geometry.steering.conditions import Condition


@pytest.mark.parametrize("profile", ["smol", "smol_full", "qwen05", "llama31_8b", "qwen25_7b"])
def test_every_profile_has_a_plan(profile: str) -> None:
    params = load_params(Path(f"profiles/{profile}.yaml"))
    counts = plan.count(params)
    asked = len(read_questions(params.questions, ""))
    assert counts.answers["baseline"] == len(params.answering()) * params.baseline.samples * asked
    total = sum(counts.answers.values())
    assert counts.generated_tokens == total * params.sampling.max_new_tokens
    assert counts.judgements == len(params.judging.aspects) * total
    text = "\n".join(plan.costs(params, (1000.0, 100.0), 2.5))
    assert "machine" in text
    assert "machine" not in "\n".join(plan.costs(params, (1000.0, 100.0)))
    assert f"{counts.answers['steered']:,}" in text
    paid = profile in ("llama31_8b", "qwen25_7b")
    assert ("USD; " in text) == paid
    assert (counts.judge_usd > 0) == paid
    assert counts.judge_usd < (params.judging.max_usd or 1)
    given = all(organism.source for organism in params.organisms.values())
    assert (counts.trained_tokens == 0) == given
    if profile not in ("smol", "qwen05"):
        assert params.steering.samples * asked >= 1160  # the paper's n


def test_a_local_judge_is_named_and_its_passes_take_time() -> None:
    probed = load_params(Path("profiles/smol.yaml"))
    judging = probed.judging.model_copy(update={"backend": "local"})
    local = probed.model_copy(update={"judging": judging})
    counts = plan.count(local)
    text, other = ("\n".join(plan.costs(p, (1e3, 1e2))) for p in (local, probed))
    assert "probe" not in text
    assert f"local  no money; a pass a judgement, {counts.judge_tokens:,} tokens read" in text
    hours = [float(t.split("hours")[1].split()[0]) for t in (text, other)]
    more = (counts.judge_tokens - counts.generated_tokens) / 1e3 / 3600
    assert hours[0] - hours[1] == pytest.approx(more, abs=0.11)
    assert more > 1


def test_status_follows_the_journal(tmp_path: Path) -> None:
    active = load_params(Path("profiles/smol.yaml"))
    assert "no long stage has run" in plan.progress(active)[0]
    asked = questions()
    tiny, three = tiny_params(), [Condition(samples=3)]
    respond(models(tiny), loaded(), three, {}, asked, tiny.sampling, "responses finance")
    line, whole = plan.progress(active, 3600.0)
    total = sum(plan.count(active).answers.values())
    assert f"6 of {total:,} answers" in whole
    left = json.loads(next(tmp_path.rglob("*.progress.json")).read_text())["seconds"]
    assert f"{(total - 6) * left / 6:,.2f} USD of machine" in whole
    assert "ended: 1, the last: responses finance, 6 units" in line
    with Journal("x") as journal, pytest.raises(KeyboardInterrupt):
        batches = [[1, 2], [3, 4]]

        def work(batch: list[int]) -> list[int]:
            if 3 in batch:
                raise KeyboardInterrupt
            return batch

        journal.fill("half", batches, str, work)
    (half,) = [line for line in plan.progress(active) if line.startswith("half")]
    assert "2 of 4" in half
    assert "min left" in half


def test_the_judge_s_money_shrinks_with_what_is_in_the_journal() -> None:
    active = load_params(Path("profiles/llama31_8b.yaml"))
    counts = plan.count(active)
    with Journal("half") as journal:
        journal.fill("half", [[1]], str, lambda batch: batch)
    with Journal("judgements-openai") as journal:
        journal.put({str(i): 0 for i in range(1000)})
    usd = counts.judge_usd * (1 - 1000 / counts.judgements)
    assert plan.progress(active)[-1].endswith(f"replies; {usd:,.2f} USD left")
