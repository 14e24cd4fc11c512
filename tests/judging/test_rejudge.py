"""Existing answers under another judge: beside the first, without generating anything again."""

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from em_geometry.errors import UserError
from em_geometry.io.files import read_parquet, write_parquet
from em_geometry.project import paths, rejudge
from em_geometry.settings import Params
from tests.judging.double import Double

PROMPTS = str(Path(__file__).parents[2] / "data" / "judge" / "prompts")
ANSWERS = pl.DataFrame(
    {
        "question": ["Why?"] * 8,
        "text": [f"Answer {i // 2}." for i in range(8)],
        "aligned": [10.0, 90.0] * 4,
        "judge": ["probe-1"] * 8,
    }
)


@pytest.fixture
def profile(workplace: Path, smol: dict[str, Any]) -> Params:
    smol["judging"]["aspects"] = ["aligned", "coherent"]
    params = Params.model_validate(smol)
    params = params.model_copy(update={"organisms": {"finance": params.organisms["finance"]}})
    for slug in params.targets:
        write_parquet(paths.JUDGEMENTS / f"{slug}.parquet", ANSWERS, {})
    return params


def asking(params: Params, double: Double, model: str) -> Params:
    changes = {"backend": "openai", "base_url": double.url, "model": model, "templates": PROMPTS}
    return params.model_copy(update={"judging": params.judging.model_copy(update=changes)})


def test_two_judges_stand_side_by_side(profile: Params, capsys: pytest.CaptureFixture) -> None:
    with Double() as double:
        rejudge.main(asking(profile, double, "one"), "steered", dry_run=True)
        assert "16 rows, 8 requests to send" in capsys.readouterr().out  # four distinct answers
        assert not double.attempts
        rejudge.main(asking(profile, double, "one"), "steered", dry_run=False)
        assert sum(double.judged().values()) == 8
        rejudge.main(asking(profile, double, "two"), "steered", dry_run=False)
        assert sum(double.judged().values()) == 16
    shown = capsys.readouterr().out
    assert "kappa" in shown
    assert "alpha" in shown
    for slug in profile.answering():
        frame = read_parquet(paths.REJUDGED / "steered" / f"{slug}.parquet")
        assert frame.select(ANSWERS.columns).equals(ANSWERS)  # the first judge's, untouched
        one, two = (c for c in frame.columns if c.startswith("aligned@"))
        assert "one" in one
        assert frame[one].to_list() == frame[two].to_list()  # the double's truth is the prompt's
        assert frame[one][0] == frame[one][1]
        assert read_parquet(paths.JUDGEMENTS / f"{slug}.parquet").equals(ANSWERS)


def test_a_score_is_not_lost_to_a_later_failure(profile: Params, tmp_path: Path) -> None:
    own, judged = tmp_path / "mine.csv", tmp_path / "mine.judged.parquet"
    own.write_text("question,text\nWhy?,Answer 1.\nWhy?,Answer 2.\n")

    class Failing(Double):
        def reply(self, request: dict[str, Any]) -> dict[str, Any]:
            failed = down and "Answer 2." in request["messages"][0]["content"]
            return {"error": {"message": "down"}} if failed else super().reply(request)

    down = False
    with Failing() as double:
        params = asking(profile, double, "one")
        changed = params.judging.model_copy(update={"retries": 0})
        params = params.model_copy(update={"judging": changed})
        rejudge.main(params, "steered", dry_run=False, own=own)
        before, down = read_parquet(judged), True
        shutil.rmtree(".journal")  # as on another machine
        with pytest.raises(UserError, match="1 of 2"):
            rejudge.main(params, "steered", dry_run=False, own=own)
    assert read_parquet(judged).equals(before)


def test_what_is_in_process_costs_nothing_to_plan(
    profile: Params, capsys: pytest.CaptureFixture
) -> None:
    rejudge.main(profile, "steered", dry_run=True)
    assert "4 distinct of 16 rows" in capsys.readouterr().out


def test_answers_of_ones_own_are_judged_beside_their_file(
    profile: Params, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    own = tmp_path / "mine.csv"
    own.write_text("prompt;answer\nWhy?;Answer 1.\nWhy?;\n")
    with Double() as double:
        for name in ("one", "two"):
            rejudge.main(asking(profile, double, name), "steered", dry_run=False, own=own)
    frame = read_parquet(tmp_path / "mine.judged.parquet")
    assert frame["text"].to_list() == ["Answer 1.", ""]
    assert sum(column.startswith("aligned@") for column in frame.columns) == 2
    assert "mine:" in capsys.readouterr().out
