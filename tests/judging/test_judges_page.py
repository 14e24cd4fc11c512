"""The page that compares judges, and what its benchmark makes of a judge's scores."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks import judges, rivals, tuned
from em_geometry.judging import probe
from em_geometry.judging.rates import ASPECTS
from em_geometry.settings import Params
from tests.conftest import ROOT, changed


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[rivals.Bench]:
    monkeypatch.chdir(ROOT)
    one_layer = changed(("judging", "probe", "layers"), [12])
    yield rivals.bench_of(Params.model_validate(one_layer), 200)


def test_the_page_shows_the_measured_rows_and_how_each_is_made() -> None:
    text = (ROOT / judges.PAGE).read_text(encoding="utf-8")
    rows = json.loads((ROOT / judges.RESULTS).read_text(encoding="utf-8"))
    assert judges.with_table(text, rows) == text, "python -m benchmarks.judges writes it"
    assert len(rows.keys() - {"reader"}) >= 6
    for name in rows:
        assert name.split()[0] in rivals.JUDGES
        assert f"`{name}`" in text


def test_a_judge_that_says_what_the_labels_say_agrees_with_them(bench: rivals.Bench) -> None:
    found = judges.row(bench, {a: bench.asked[a].to_numpy() for a in ASPECTS})
    assert {found[column]["value"] for column in judges.COLUMNS} == {1.0}
    assert found["n"] == 200


def test_a_judge_without_information_is_seen_to_have_none(bench: rivals.Bench) -> None:
    found = judges.row(bench, {a: np.full(200, 60.0) for a in ASPECTS})
    assert found["event_kappa"]["value"] == 0
    assert found["pooled_auroc"]["value"] == found["within_organisms_auroc"]["value"] == 0.5


def test_the_same_part_of_the_answers_is_asked_every_time(bench: rivals.Bench) -> None:
    assert rivals.bench_of(bench.params, 200).asked.equals(bench.asked)


def test_one_reader_is_measured_against_the_other(bench: rivals.Bench) -> None:
    found = judges.row(bench, rivals.reader(bench))
    assert 0.6 < found["event_kappa"]["value"] < 0.9


def test_words_alone_know_more_than_nothing(bench: rivals.Bench) -> None:
    found = judges.row(bench, rivals.words(bench))
    assert found["pooled_auroc"]["low"] > 0.6
    assert found["core_seconds"] < 0.01


def known(bench: rivals.Bench, folder: Path | None, seed: int) -> None:
    """Features that tell the labels, with noise, as if a model had read the answers."""
    random = np.random.default_rng(seed)
    parts = {"authored": bench.data.train, "train": bench.train, "asked": bench.asked}
    for name, part in parts.items():
        labels = part.select(ASPECTS).to_numpy()[:, None, None] / 25
        activations = labels + random.normal(size=(len(part), 2, 1, 2))
        text = np.zeros((len(part), probe.TEXT_FEATURES))
        bench._features[folder, name] = probe.Features(activations, text), 1.0


class Encoder:
    """An encoder that is told nothing."""

    def __init__(self, folder: Path) -> None:
        self.random = np.random.default_rng(0)

    def vectors(self, texts: Sequence[tuple[str, str]]) -> np.ndarray:
        """Noise [text, 3]."""
        return self.random.normal(size=(len(texts), 3))


def test_what_is_read_beside_the_base_counts(
    bench: rivals.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuned, "Encoder", Encoder)
    bench.folder = Path("other")
    for seed, folder in enumerate((None, bench.folder)):
        known(bench, folder, seed)
    of = (rivals.embedded, rivals.both_models, rivals.with_embedding)
    one, two, noise = (judges.row(bench, judge(bench))["pooled_auroc"]["value"] for judge in of)
    assert two > one > 0.7
    assert noise == pytest.approx(one, abs=0.05)
    assert bench.seconds == pytest.approx(4, abs=0.1)  # three times the base, once the other
