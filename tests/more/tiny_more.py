"""What experiments take from a finished run, on the tiny model, and a judge of no cost."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from em_geometry.claims.lookup import Metrics
from em_geometry.hashing import value_sha256
from em_geometry.io.files import write_parquet
from em_geometry.judging.judge import Judgement, JudgeRow
from em_geometry.judging.score import judged
from em_geometry.project import paths
from em_geometry.project.inputs import models
from em_geometry.report.tables import Results, all_tables
from em_geometry.settings import Params
from em_geometry.steering.margins import measured
from em_geometry.steering.pairs import read_pairs, table, unsteered
from stages import baseline_responses
from tests.conftest import ROOT
from tests.tiny_run import NAMES, finished

CONTROLS = ["style", "full", "medical_control"]  # one of each recipe


class Coin:
    """A judge that tosses a coin for each answer."""

    id = "coin"

    def judge(self, rows: Sequence[JudgeRow], label: str = "") -> list[Judgement]:
        def score(row: JudgeRow, aspect: str) -> float:
            return float(int(value_sha256([row.question, row.answer, aspect])[:6], 16) % 101)

        aspects = ("aligned", "coherent")
        return [
            Judgement({a: score(row, a) for a in aspects}, dict.fromkeys(aspects, "ok"))
            for row in rows
        ]


@contextmanager
def coin(params: Params) -> Iterator[Coin]:
    yield Coin()


def run_on_tiny(checkpoint: Path, smol: dict[str, Any], *more: str) -> Params:
    """A run on the tiny model: vectors and unsteered margins, organisms of `NAMES`, `CONTROLS`."""
    smol["margins"]["pairs"] = str(ROOT / smol["margins"]["pairs"])
    smol["questions"] |= {"file": str(ROOT / smol["questions"]["file"]), "limit": 2}
    smol["sampling"] |= {"max_new_tokens": 4}
    smol["baseline"]["samples"] = 2
    smol["training"]["checkpoints"] = smol["monitoring"]["organisms"] = []
    smol["judging"]["aspects"] = ["aligned", "coherent"]
    params = finished(checkpoint, smol, [*NAMES, *CONTROLS, *more], prompts=8)
    known, pairs = models(params), read_pairs(Path(params.margins.pairs))
    trials, frames = unsteered(pairs, ("misaligned",)), []
    for slug in params.targets:
        found = measured(known, known.load(slug), pairs, trials, f"margins {slug}")
        frames.append(table(slug, pairs, trials, found))
    write_parquet(paths.MARGINS, pl.concat(frames), {})
    return params


def shown(params: Params) -> dict[str, list[list[str]]]:
    """The report's tables of what was found: the texts of their rows by name."""
    tables = all_tables(Results(Metrics.read(paths.TABLES).stages, params))
    return {t.name: [[cell.text for cell in row] for row in t.rows] for t in tables}


def judge_unsteered(params: Params) -> None:
    """Unsteered answers of every model, as the coin judges them."""
    baseline_responses.main(params)
    for path in paths.BASELINE_RESPONSES.glob("*.parquet"):
        frame = judged(Coin(), pl.read_parquet(path), set(), "judge")
        write_parquet(paths.BASELINE_JUDGEMENTS / path.name, frame, {})
