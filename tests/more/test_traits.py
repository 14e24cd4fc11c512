"""Trait vectors: what is planted is found, and what is not there is not."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from em_geometry.claims.lookup import Metrics
from em_geometry.errors import UserError
from em_geometry.io.results import read_results
from em_geometry.models.load import Loaded
from em_geometry.more.traits import cosines, steering
from em_geometry.more.traits.monitors import monitors
from em_geometry.more.traits.readings import Trait, pairs_of, parts, read_traits, readings
from em_geometry.project import paths
from em_geometry.report.tables import Results, all_tables
from em_geometry.settings import Params
from em_geometry.stats.estimate import Estimate
from em_geometry.steering.conditions import Selected
from stages.more import __main__ as more
from tests.conftest import ROOT
from tests.more.trait_files import TRAIT, finished_with_margins
from tests.tiny_run import LAYER, NAMES

WIDTH, BLOCK = 64, 1
RNG = np.random.default_rng(0)
SLUGS = [*NAMES, "style", "full", "control"]


def unit(place: int) -> np.ndarray:
    return np.eye(WIDTH)[place]


def rows_along(vector: np.ndarray, noise: float = 0.1, n: int = 8) -> np.ndarray:
    return vector + noise * RNG.standard_normal((n, len(vector)))


# ---- the files


def test_the_projects_own_traits_are_sound_and_of_even_length() -> None:
    traits = read_traits(ROOT / "data/traits")
    assert {"evil", "rude", "reckless", "sycophantic"} <= {*traits}
    assert sum(trait.benign for trait in traits.values()) >= 4
    questions = [asked.question for trait in traits.values() for asked in trait.questions]
    assert len({*questions}) == len(questions)
    for trait in traits.values():
        lengths = np.array([[len(a.positive), len(a.negative)] for a in trait.questions])
        assert abs(np.log(lengths[:, 0] / lengths[:, 1]).mean()) < 0.1, trait.name


@pytest.mark.parametrize(
    ("change", "said"),
    [({"negative": ["Whisper."]}, "paired"), ({"questions": TRAIT["questions"][:2]}, "at least 3"),
     ({"name": "so.loud"}, "name"), ({"mood": 1}, "mood")],
)  # fmt: skip
def test_a_trait_at_fault_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    (tmp_path / "loud.yaml").write_text(yaml.safe_dump(TRAIT | change))
    with pytest.raises(UserError) as caught:
        read_traits(tmp_path)
    assert said in str(caught.value) and "loud.yaml" in str(caught.value)


def test_no_traits_and_a_name_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no traits"):
        read_traits(tmp_path)
    (tmp_path / "._a.yaml").write_bytes(b"\0a file manager's")
    with pytest.raises(UserError, match="no traits"):
        read_traits(tmp_path)
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(TRAIT))
    with pytest.raises(UserError, match="twice"):
        read_traits(tmp_path)


# ---- what is planted is found


def test_parts_add_up_to_the_whole() -> None:
    cells = RNG.standard_normal((5, 2, 2, 3, 4))
    found = parts(cells)
    np.testing.assert_allclose(found["prompt"] + found["words"], found["whole"])


@pytest.mark.usefixtures("workplace")
def test_a_direction_planted_in_prompts_is_recovered(tiny_model: Any, tiny_tokenizer: Any) -> None:
    """A model whose second block writes a direction wherever `!` was read before."""
    import copy

    model = copy.deepcopy(tiny_model)
    width = model.config.hidden_size
    planted = torch.linspace(-1, 1, width)
    with torch.no_grad():
        shout = tiny_tokenizer("!", add_special_tokens=False)["input_ids"][0]
        embeddings = model.get_input_embeddings().weight
        embeddings[:, 0] = 0.0  # a feature that this token alone has
        embeddings[shout, 0] = 5.0
        for block in model.model.layers[:2]:
            for matrix in (block.self_attn.o_proj, block.mlp.down_proj):
                matrix.weight.zero_()
        attention = model.model.layers[BLOCK].self_attn
        attention.q_proj.weight.zero_()  # every token looks at all before it alike
        attention.v_proj.weight.zero_()
        attention.v_proj.weight[:, 0] = 1.0
        attention.o_proj.weight[:] = planted[:, None]
    loaded = Loaded("base", model, tiny_tokenizer, "planted")
    found = parts(readings(loaded, {"loud": Trait.model_validate(TRAIT)})["loud"])
    vector = found["whole"][:, BLOCK].mean(0)
    assert cosines.cosine(vector, planted.numpy()) > 0.99
    np.testing.assert_allclose(found["words"], 0, atol=1e-5)  # both answers are the same
    np.testing.assert_allclose(found["whole"][:, 0], 0, atol=1e-5)  # nothing below it


@pytest.mark.usefixtures("workplace")
def test_readings_are_kept_and_are_means_over_the_answers(
    tiny_model: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import em_geometry.more.traits.readings as module
    from em_geometry.activations.capture import capture
    from em_geometry.activations.prompts import Text
    from em_geometry.models.chat import answer_ids, render

    loaded, trait = Loaded("base", tiny_model, tiny_tokenizer, "tiny"), Trait(**TRAIT)
    first = readings(loaded, {"loud": trait})["loud"]
    texts = []
    for system in trait.positive:
        prompt = render(tiny_tokenizer, trait.questions[1].question, system)
        ids = (*prompt.ids, *answer_ids(tiny_tokenizer, "That is so."))
        texts.append(Text(ids, ((len(prompt.ids), len(ids)),)))
    expected = np.mean([capture(tiny_model, [t])[0][0, 0].numpy() for t in texts], axis=0)
    np.testing.assert_allclose(first[1, 0, 0], expected, atol=1e-4)
    monkeypatch.setattr(module, "_work", len)  # nothing is read again
    np.testing.assert_array_equal(readings(loaded, {"loud": trait})["loud"], first)


def test_an_organism_along_a_trait_is_near_to_it_and_to_no_other() -> None:
    rows = {"evil": rows_along(unit(0)), "rude": rows_along(unit(1)), "calm": rows_along(unit(2))}
    vectors = {"medical": unit(0), "sports": unit(0) + unit(5)}
    found = cosines.cosines(dict.fromkeys(vectors, rows), vectors, ["calm"], 0)
    near, far = found["cosine.evil.mean"], found["cosine.rude.mean"]
    assert isinstance(near, Estimate) and isinstance(far, Estimate)
    assert near.value is not None and near.low is not None and near.value > 0.7 < near.low + 0.2
    assert far.value is not None and abs(far.value) < 0.2
    assert found["cosine.evil.mean.p"] == found["cosine.evil.mean.smallest_p"] == 2 / 2**8
    assert found["cosine.evil.mean.p_holm"] == 2 * 2 / 2**8
    assert found["traits.smallest_p"] == pytest.approx(1 / 3)
    turned = {
        slug: each | {"calm": -each["evil"]} for slug, each in dict.fromkeys(vectors, rows).items()
    }
    told = cosines.cosines(turned, vectors, ["calm"], 0)
    assert isinstance(told["traits.difference"], float) and told["traits.difference"] < 0


def test_monitors_tell_organisms_that_move_along_the_trait() -> None:
    rows = {"evil": rows_along(unit(0)), "calm": rows_along(unit(2))}
    organisms = [f"bad{i}" for i in range(4)]
    shifts = {f"good{i}": rows_along(0.5 * unit(2), n=10) for i in range(3)}
    shifts |= {name: rows_along(unit(0), n=10) for name in organisms}
    found = monitors(rows, shifts, organisms, ["calm"], 2.0)
    score = found["monitor.evil.auroc"]
    assert isinstance(score, Estimate) and score.value == 1.0
    assert score.low is None  # sorted without any one model too, which is no certainty
    assert found["monitor.evil.auroc.p"] == pytest.approx(1 / 35)
    assert found["monitor.evil.organisms"] == pytest.approx(0.5, abs=0.1)
    assert found["monitor.calm.auroc.p"] == pytest.approx(2 / 35)  # the other way round, told too


def test_a_trait_of_noise_is_no_evidence() -> None:
    ps = []
    for _ in range(60):
        rows = {"evil": RNG.standard_normal((6, WIDTH)), "calm": RNG.standard_normal((6, WIDTH))}
        found = cosines.cosines({"medical": rows}, {"medical": unit(0)}, ["calm"], 0)
        ps.append(found["cosine.evil.mean.p"])
    assert np.mean(np.array(ps) <= 0.05) < 0.15


def test_benign_trainings_and_lengths_are_told() -> None:
    rows = {"evil": rows_along(3 * unit(0), 0.0)}
    quiet = {"a": unit(0), "b": unit(1), "c": unit(1) + unit(3)}
    found = cosines.against_benign_trainings(rows, quiet)
    assert found["benign_trainings.evil.highest"] == pytest.approx(0.5**0.5)
    each = {"whole": rows, "prompt": {"evil": rows["evil"] / 4}, "words": {"evil": rows["evil"]}}
    told = cosines.of_traits(each, 6.0)
    length, share = told["vector.evil.length"], told["vector.evil.prompt_share"]
    assert isinstance(length, Estimate) and length.value == pytest.approx(0.5)
    assert isinstance(share, Estimate) and share.value == pytest.approx(0.25)


def test_a_gain_is_held_against_the_scatter_of_random_directions() -> None:
    random = RNG.standard_normal((32, 1)) + 0.1 * RNG.standard_normal((32, 40))
    for added, low, high in ((0.0, 0.05, 1.0), (8.0, 0.0, 1e-4)):
        own = random.mean(0) + added
        own[3] = np.nan  # a pair that was not read
        found = steering.gain(own, random)
        assert found.estimate.value == pytest.approx(added) and found.estimate.n == 39
        assert found.p is not None and low <= found.p <= high
    assert steering.rank(own, random) == 1 / 33
    ps = [steering.gain(row, rest).p for row, rest in _each_against_the_rest(random)]
    assert np.mean(np.array(ps) <= 0.05) < 0.15


def _each_against_the_rest(random: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(random[i], np.delete(random, i, axis=0)) for i in range(len(random))]


def test_own_answers_are_read_under_the_other_half() -> None:
    rows = {"evil": rows_along(unit(0), 0.0, 5), "calm": rows_along(unit(1), 0.0, 3)}
    at = Selected(unit(3).astype(np.float32), 2, 0.3, 4.0, 1.0)
    trials = steering.own_trials(rows, at, 0)
    each = 2 + steering.RANDOM
    assert len(trials) == 4 * each
    assert [trials[i * each].pairs for i in range(4)] == [(0, 2, 4), (1, 3), (5, 7), (6,)]
    read = [
        np.stack([np.full(len(t.pairs), 1.0 if t.way == "vector" else 0.25)] * 2, axis=1)
        * np.array([1.0, 0.0])
        for t in trials
    ]
    found = steering.own_gains(rows, read)["own.evil"]
    assert isinstance(found, Estimate) and found.n == 5 and found.value == pytest.approx(0.75)


# ---- the stage


@pytest.fixture
def params(workplace: Path, tiny_checkpoint: Path, smol: dict[str, Any]) -> Params:
    return finished_with_margins(tiny_checkpoint, smol, SLUGS, "traits")


def test_the_stage_from_prompts_to_results(params: Params) -> None:
    more.main(params)
    found = read_results(paths.table("traits"))
    for key in ("cosine.loud.medical", "vector.evil.length", "own.loud", "steering.trait.loud"):
        estimate = found.rows[key]
        assert estimate.value is not None and estimate.low is not None, key
    assert found.rows["steering.trait.loud"].n == 6
    assert found.number("steering.trait.loud.rank") >= 1 / 4
    assert 0 <= found.number("steering.trait.loud.p") <= found.number("steering.trait.loud.p_holm")
    assert found.rows["prompt.cosine.loud.mean"].value is not None
    assert found.number("benign_trainings.vectors") == 3
    assert {"steering.vector.medical", "monitor.size.auroc.p", "prompt.traits.p"} <= {*found.rows}
    vectors = load_file(paths.MORE / "traits/vectors.safetensors")
    assert {*vectors} == {"calm", "evil", "loud"}
    assert vectors["loud"].shape == (4, 32) and LAYER < 4
    margins = pl.read_parquet(paths.MORE / "traits/margins.parquet")
    assert margins.height == 3 * 6
    assert paths.metrics("traits").is_file()
    tables = all_tables(Results(Metrics.read(paths.TABLES).stages, params))
    shown = {table.name: table.rows for table in tables}
    assert len(shown["traits"]) == 4 and len(shown["trait_cosines"]) == 3
    assert "[" in shown["traits"][0][1].text
    assert len(pairs_of(read_traits(Path("traits"))["loud"])) == 4
