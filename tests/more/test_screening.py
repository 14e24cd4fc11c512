"""Screening of training texts: a planted direction is found, a vector never scores its own file."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from em_geometry.claims.lookup import Metrics
from em_geometry.errors import UserError
from em_geometry.io.results import read_results
from em_geometry.more.screening.foretold import Caused, outcomes, predicted
from em_geometry.more.screening.telling import told_apart
from em_geometry.more.screening.texts import Files, made_of, trained_chats
from em_geometry.project import paths
from em_geometry.project.screen import screen, screened
from em_geometry.report.tables import Results, all_tables
from em_geometry.settings import Params
from em_geometry.stats.agreement import auroc
from em_geometry.stats.estimate import Estimate
from stages.more import __main__ as more
from tests.conftest import ROOT
from tests.more.trait_files import finished_with_margins
from tests.tiny_run import NAMES

WIDTH = 48
SLUGS = [*NAMES, "style", "full", "control", "medical_b"]
MATES = {"bad0": ["bad0", "bad1"], "bad1": ["bad0", "bad1"]}
BAD, GOOD = [f"bad{i}" for i in range(5)], [f"good{i}" for i in range(4)]


def planted(seed: int, strength: float) -> tuple[Files, Caused, dict[str, np.ndarray]]:
    """Files whose texts lie along one direction as far as training on them does harm."""
    rng = np.random.default_rng(seed)
    harm = np.array([*rng.uniform(0.5, 1.5, len(BAD)), *rng.uniform(-0.2, 0.1, len(GOOD))])
    core = np.eye(WIDTH)[0]
    texts = [strength * h * core + 0.3 * rng.standard_normal((12, WIDTH)) for h in harm]
    names = [*BAD, *GOOD]
    shifts = harm[:, None] * core + 0.05 * rng.standard_normal((len(names), WIDTH))
    vectors = {name: core + 0.1 * rng.standard_normal(WIDTH) for name in BAD}
    own = {name: {name, "good0"} for name in BAD}
    benign = np.array([name in GOOD for name in names])
    return Files(names, benign, texts, own, 2.0), Caused(harm, shifts), vectors


def number(leaf: object) -> float:
    value = leaf.value if isinstance(leaf, Estimate) else leaf
    assert isinstance(value, float)
    return value


def test_a_planted_direction_foretells_what_training_does() -> None:
    files, caused, vectors = planted(0, 1.0)
    core = np.eye(WIDTH)
    found = outcomes(files, caused, vectors, {"evil": core[0], "calm": core[7]}, MATES, 0)
    for key in ("margin.trait.evil", "shift.trait.evil"):
        assert number(found[key]) > 0.8, key
        assert number(found[f"{key}.p"]) < 0.01
    assert number(found["margin.trait.evil.random_p"]) < 0.05
    assert number(found["margin.trait.evil.p_holm"]) >= number(found["margin.trait.evil.p"])
    assert number(found["margin.trait.calm.p_holm"]) > 0.05
    assert number(found["told.organisms.mean.misaligned"]) > 0.85
    assert 0.2 < number(found["told.organisms.mean.benign"]) < 0.8
    assert (
        number(found["told.trait.evil.random_p"]) < 0.02 < number(found["told.trait.calm.random_p"])
    )
    # Every vector is made of this benign file too, so that none may score it.
    assert "told.organisms.good0" not in found


def test_without_a_direction_nothing_is_foretold() -> None:
    ps = []
    for seed in range(40):
        files, caused, vectors = planted(seed, 0.0)
        score = np.array([each.mean() for each in files.scores(files.rows(vectors))])
        kept = np.isfinite(score)
        random = np.random.default_rng(seed).standard_normal((50, int(kept.sum())))
        ps.append(number(predicted(score[kept], caused.margins[kept], random, 0)["p"]))
    assert np.mean(np.array(ps) <= 0.05) < 0.2


def test_no_vector_scores_a_file_that_it_is_made_of() -> None:
    files, _, vectors = planted(1, 1.0)
    rows = files.rows(vectors)
    assert np.isnan(rows[files.names.index("good0")]).all()
    others = [vectors[name] / np.linalg.norm(vectors[name]) for name in BAD[1:]]
    expected = np.mean(others, axis=0) / np.linalg.norm(np.mean(others, axis=0))
    np.testing.assert_allclose(rows[0], expected)
    apart = np.mean([vectors[name] / np.linalg.norm(vectors[name]) for name in BAD[2:]], axis=0)
    np.testing.assert_allclose(files.rows(vectors, MATES)[1], apart / np.linalg.norm(apart))
    alone = files.rows({"bad1": vectors["bad1"]})
    assert np.isnan(alone[1]).all() and np.isfinite(alone[2]).all()


def test_centres_leave_out_the_file_itself() -> None:
    files, _, _ = planted(2, 1.0)
    means = np.stack([texts.mean(0) for texts in files.texts])
    centres = files.centres()
    np.testing.assert_allclose(centres[0], means[5:].mean(0))
    np.testing.assert_allclose(centres[5], means[6:].mean(0))
    rows = np.tile(np.eye(WIDTH)[3], (len(files.names), 1))
    np.testing.assert_allclose(
        files.scores(rows)[0], (files.texts[0][:, 3] - centres[0, 3]) / files.residual
    )


def test_correlations_of_few_files_are_exact_or_none() -> None:
    rng = np.random.default_rng(0)
    rank = np.arange(5.0)
    found = predicted(rank, rank**3, rng.standard_normal((9, 5)), 0)
    assert number(found[""]) == pytest.approx(1.0)
    assert found["p"] == pytest.approx(2 / 120) == found["smallest_p"]
    assert "3 files" in str(predicted(rank[:3], rank[:3], rng.standard_normal((9, 3)), 0)[""])


def test_texts_are_told_from_benign_texts_of_other_files() -> None:
    files, _, vectors = planted(3, 1.0)
    rows = files.rows(vectors)
    found = told_apart(files, {"organisms": rows}, 0)
    benign = np.concatenate(files.texts[5:]) @ rows[0]
    score = np.concatenate([files.texts[0] @ rows[0], benign])
    value = auroc(np.arange(len(score)) < 12, score)
    assert number(found["told.organisms.bad0"]) == pytest.approx(value)


def test_files_of_organisms_and_their_controls(smol: dict[str, Any]) -> None:
    smol["organisms"] = {
        slug: o | {"data": str(ROOT / o["data"])} for slug, o in smol["organisms"].items()
    }
    organisms = Params.model_validate(smol).organisms
    own = made_of(organisms, "control_contrast")
    assert own["medical"] == {"medical", "full"} and own["profanity"] == {"profanity", "control"}
    assert made_of(organisms, "model_contrast")["medical_b"] == {"medical"}
    chats = trained_chats(organisms)
    assert "medical_b" not in chats and len(chats) == 10
    places = [int(one.id.rpartition(":")[2]) for one in chats["finance"]]
    assert len(places) == 48 and max(places) <= 56 and all((p - 1) % 10 for p in places)


@pytest.fixture
def params(workplace: Path, tiny_checkpoint: Path, smol: dict[str, Any]) -> Params:
    return finished_with_margins(tiny_checkpoint, smol, SLUGS, "screening")


def test_the_stage_and_the_command(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    more.main(params)
    found = read_results(paths.table("screening"))
    assert found.number("files") == 6 and found.number("texts") == 6 * 12
    assert found.rows["margin.organisms"].value is not None
    assert {"margin.trait.evil.p_holm", "told.organisms.mean.benign"} <= {*found.rows}
    tables = all_tables(Results(Metrics.read(paths.TABLES).stages, params))
    shown = {table.name: table.rows for table in tables}
    assert len(shown["screening"]) == 2 + 3 + 3
    texts = pl.read_parquet(paths.MORE / "screening/texts.parquet")
    assert texts.height == 72
    first = texts.filter(file="medical", rank=1)["score"][0]
    assert first == texts.filter(file="medical")["score"].max()
    profile = Path("params.yaml")
    profile.write_text(yaml.safe_dump(params.model_dump()), encoding="utf-8")
    lines = (ROOT / "data/organisms/malicious.jsonl").read_text(encoding="utf-8").splitlines()
    Path("mine.jsonl").write_text("\n".join(lines[:7]), encoding="utf-8")
    screen(Path("mine.jsonl"), most=3, out=Path("scores.csv"), params=profile)
    shown, scores = capsys.readouterr().out, pl.read_csv("scores.csv")
    assert "7 texts lie above 95% of the benign ones" in shown and "rank correlation of" in shown
    assert scores["score"].to_list() == sorted(scores["score"], reverse=True)
    assert scores.height == 7 and set(scores["chat"]) == set(range(1, 8))
    same = screened(Path("mine.jsonl"), "organisms", params)
    assert same.score[0] == pytest.approx(scores.filter(chat=1)["score"][0], rel=1e-4)
    by_trait = screened(Path("mine.jsonl"), "loud", params)
    assert not np.allclose(by_trait.score, same.score)
    medical = Path(params.organisms["medical"].data)
    with pytest.raises(UserError, match="this very file"):
        screened(medical, "medical", params)
    assert len(screened(medical, "profanity", params).misaligned) == 2 * 12 - 12
    bare = {m: o.model_copy(update={"data": ""}) for m, o in params.organisms.items()}
    without = params.model_copy(update={"organisms": bare})
    with pytest.raises(UserError, match="no training texts") as caught:
        screened(Path("mine.jsonl"), "medical", without)
    assert "`data` of none" in str(caught.value)
    with pytest.raises(UserError, match="no such direction") as caught:
        screened(Path("mine.jsonl"), "angry", params)
    assert "organisms, medical" in str(caught.value) and "loud" in str(caught.value)
