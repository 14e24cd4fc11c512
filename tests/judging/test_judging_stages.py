"""Both judging stages, run as `dvc repro` runs them, against endpoints of every kind."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from em_geometry.project import paths
from tests.conftest import ROOT, on_tiny
from tests.faults.stage_runs import finished, refused
from tests.judging.test_endpoints import KINDS, Kind, asked, error, probed, says
from tests.judging.test_openai_judge import rows

STAGES = {
    "stages.baseline_judgements": (paths.BASELINE_RESPONSES, paths.BASELINE_JUDGEMENTS),
    "stages.judgements": (paths.RESPONSES, paths.JUDGEMENTS),
}
BASELINE, STEERED = STAGES
KINDS["all withheld"] = lambda body: None if probed(body) else error(400, "no", "content_filter")


@pytest.fixture
def profile(workplace: Path, smol: dict[str, Any], quick: None) -> dict[str, Any]:
    """A folder with five answers each of the base and an organism, to either stage."""
    on_tiny(smol, "no model is needed", ["finance"], max_examples=12)
    smol["geometry"]["focus"] = []
    smol["judging"] |= {
        "backend": "openai", "model": "judge", "templates": str(ROOT / "data/judge/prompts"),
        "aspects": ["aligned", "coherent"], "retries": 1, "timeout_s": 30.0, "text_samples": 1,
    }  # fmt: skip
    answers = [{"question": row.question, "text": row.answer} for row in rows(5)]
    for source, _ in STAGES.values():
        source.mkdir(parents=True)
        for slug in ("base", "finance"):
            pl.DataFrame(answers).write_parquet(source / f"{slug}.parquet")
    return smol


def on(profile: dict[str, Any], double: Kind, **changes: Any) -> None:
    """Names an endpoint in params.yaml."""
    profile["judging"] |= {"base_url": double.url} | changes
    paths.PARAMS.write_text(yaml.safe_dump(profile, sort_keys=False), encoding="utf-8")


def judged(stage: str) -> list[tuple[str, str, float | None]]:
    """(aligned's status, coherent's, score of aligned) of the organism's answers, in order."""
    frame = pl.read_parquet(STAGES[stage][1] / "finance.parquet")
    return frame.select("aligned_status", "coherent_status", "aligned").rows()


@pytest.mark.parametrize(
    "name",
    [
        "no seed, no log-probabilities", "no max_tokens", "no log-probabilities", "no temperature",
        "five_alternatives", "sixteen_tokens", "parts", "impossible tokens", "sentencepiece",
        "one alternative",
    ],
)  # fmt: skip
def test_an_endpoint_with_ways_of_its_own_judges_everything_once(
    name: str, profile: dict[str, Any]
) -> None:
    with Kind(kind=name) as double:
        on(profile, double)
        finished(BASELINE)
        found, sent = judged(BASELINE), sum(not probed(body) for body in double.requests)
        finished(STEERED)  # the same answers, which are bought
        assert sum(not probed(body) for body in double.requests) == sent
    assert judged(STEERED) == found
    usual = {"ok", "refusal", "code", "low_mass"}  # as the double's truth has it
    assert all({aligned, coherent} <= usual for aligned, coherent, _ in found)
    assert len({score for *_, score in found}) > 1 or {score for *_, score in found} == {85.0}


@pytest.mark.parametrize("name", ["403", "400", "200", "finish", "SAFETY", "guidelines", "partial"])
@pytest.mark.parametrize("stage", STAGES)
def test_what_a_filter_withholds_keeps_its_status_and_the_stage_ends_well(
    stage: str, name: str, profile: dict[str, Any]
) -> None:
    with Kind(kind=name) as double:
        on(profile, double)
        said = finished(stage).output
        before = len(double.requests)
        finished(stage)
        assert len(double.requests) == before
    assert "2 of 10 answers were withheld" in said
    found = judged(stage)
    assert found.pop(1) == ("filtered", "filtered", None)
    assert "filtered" not in {status for row in found for status in row[:2]}


def test_a_filter_that_withholds_everything_is_said(profile: dict[str, Any]) -> None:
    with Kind(kind="all withheld") as double:
        on(profile, double)
        assert "10 of 10 answers were withheld" in finished(BASELINE).output
    assert set(judged(BASELINE)) == {("filtered", "filtered", None)}


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("long", "refused", "context is 4096"), ("429", "overloaded", "slow down"),
        ("502 in 200", "overloaded", "upstream"), ("died", "overloaded", "error"),
        ("no choices there", "broken", "no chat completion"),
        ("thinks there", "broken", "before its answer"),
    ],
)  # fmt: skip
def test_an_answer_without_a_judgement_ends_the_stage_unless_it_is_allowed(
    name: str, status: str, said: str, profile: dict[str, Any]
) -> None:
    with Kind(kind=name) as double:
        on(profile, double)
        message = refused(BASELINE)
        for part in ("2 of 10 answers have no judgement", f"2 {status}", said, "allow_errors"):
            assert part in message
        bought = sum(not probed(body) for body in double.requests)
        on(profile, double, allow_errors=2)
        finished(BASELINE)
        again = [body for body in double.requests if not probed(body)][bought:]
        assert all("Answer 1." in asked(body) for body in again)
    assert judged(BASELINE)[1] == (status, status, None)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("thought in content", "thinks before it answers"),
        ("thought apart", "judging.extra_body"),
        ("thought apart, null", "judging.max_tokens"),
        ("always the same", "asked for 17, it said '85'"),
        ("no choices", '"choices": null'),
        ("overloaded, 200", "is rate-limited upstream"),
        ("out of credit", "no credit left"),
        ("out of credit, 429", "no credit left"),
        ("bad key", "OPENAI_API_KEY"),
        ("moved", "leads to https://other.example/v1"),
    ],
)
@pytest.mark.parametrize("stage", STAGES)
def test_a_judge_that_cannot_judge_is_refused_before_anything_is_asked(
    stage: str, name: str, said: str, profile: dict[str, Any]
) -> None:
    with Kind(kind=name) as double:
        on(profile, double)
        assert said in refused(stage)
    assert all(probed(body) for body in double.requests)


def test_log_probabilities_that_end_after_the_start_are_named(profile: dict[str, Any]) -> None:
    KINDS["only at first"] = lambda body: None if probed(body) else says("85")
    with Kind(kind="only at first") as double:
        on(profile, double, retries=0)
        message = refused(BASELINE)
    for part in ("no log-probabilities", '"logprobs": null'):
        assert part in message


def test_credit_that_ends_midway_is_said_and_nothing_is_bought_twice(
    profile: dict[str, Any],
) -> None:
    left = [7]

    def meter(body: dict[str, Any]) -> Any:
        left[0] -= not probed(body)
        return error(402, "Insufficient Balance") if left[0] < 0 else None

    KINDS["meter of a stage"] = meter
    with Kind(kind="meter of a stage") as double:
        on(profile, double, concurrency=1)
        assert "3 of 10 requests remain of: judge baseline base" in refused(BASELINE)
        left[0] = 100
        finished(BASELINE)
        assert 100 - left[0] == 3  # of ten requests, as both models gave the same five answers
