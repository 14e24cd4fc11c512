"""Latents that organisms change: planted ones are found, and benign fine-tunes seldom are."""

from collections.abc import Iterator

import numpy as np
import pytest
from scipy.stats import binom

from em_geometry.errors import UserError
from em_geometry.more.features import latents
from em_geometry.more.features.detectors import of_repeat
from em_geometry.more.features.latents import Read, Space, by_activation, by_direction, overlap
from em_geometry.more.features.sparse import unit
from em_geometry.more.features.summary import Organism, at_the_top, compared, table
from em_geometry.stats.estimate import Estimate

LATENTS, WIDTH, TEXTS, BENIGN = 200, 40, 40, 24
TOPICS = [str(i % 8) for i in range(TEXTS)]
PLANTED = 17


class World:
    """A random dictionary, and fine-tunes each of which shifts all latents by chance."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.decoder = 3 * unit(self.rng.standard_normal((LATENTS, WIDTH)))
        self.base = self.rng.exponential(1, (TEXTS, LATENTS))

    def model(self, planted: float = 0.0, latent: int = PLANTED) -> Read:
        """A training: a shift of each latent of its own, noise of texts, and what is planted."""
        shift = 0.1 * self.rng.standard_normal(LATENTS)
        latents = self.base + shift + 0.1 * self.rng.standard_normal((TEXTS, LATENTS))
        latents[:, latent] += planted
        return Read(latents, latents @ self.decoder)

    def space(self, benign: int = BENIGN) -> Space:
        base = Read(self.base, self.base @ self.decoder)
        others = {f"benign{i}": self.model() for i in range(benign)}
        return Space(self.decoder, TOPICS, 5.0, base, others, self.rng)


def test_a_planted_latent_is_found_by_its_activation() -> None:
    world = World(0)
    space = world.space()
    control = space.benign["benign0"]
    best, told = by_activation(space, world.model(planted=2.0), control)
    assert best == told["latent"] == told["farthest_latent"] == PLANTED
    assert told["p_benign"] == pytest.approx(1 / (1 + BENIGN)) == told["p_benign.smallest"]
    change, beyond = told[""], told["beyond"]
    assert isinstance(change, Estimate) and isinstance(beyond, Estimate)
    assert change.value == pytest.approx(2.0 * 3 / 5, abs=0.3) and change.n == 8
    assert beyond.low is not None and 0.7 < beyond.low < beyond.value
    assert told["p_texts"] == pytest.approx(2 / 2**8)


def test_benign_draws_are_found_as_seldom_as_the_level_says() -> None:
    """100 worlds without an effect: p below .05 in not many more than five of them."""
    hits = []
    for seed in range(100):
        world = World(seed)
        space = world.space()
        _, told = by_activation(space, world.model(), space.benign["benign0"])
        assert isinstance(told["p_benign"], float)
        hits.append(told["p_benign"] <= 0.05)
    assert sum(hits) <= binom.ppf(0.999, 100, 0.05)


def test_noise_of_texts_alone_has_an_honest_p() -> None:
    rng, hits = np.random.default_rng(1), 0
    for _ in range(100):
        each = rng.standard_normal((8, 50)) * rng.exponential(1, 50)
        best = int(np.abs(each.mean(0)).argmax())
        hits += latents.flipped(each, best, rng)[0] <= 0.05
    assert hits <= binom.ppf(0.999, 100, 0.05)


def test_more_topics_than_flips_are_flipped_at_random() -> None:
    each = np.random.default_rng(0).standard_normal((20, 30))
    each[:, 4] += 5
    p, smallest = latents.flipped(each, 4, np.random.default_rng(1))
    assert p == pytest.approx(1 / 1001) and smallest == pytest.approx(2 / 1001)


def test_a_vector_along_a_latent_is_found_by_its_direction() -> None:
    world = World(0)
    space = world.space()
    own = world.model(planted=4.0)
    differences = own.states - space.base.states
    best, told = by_direction(space, differences.mean(0), differences)
    found = told[""]
    assert best == PLANTED and isinstance(found, Estimate) and found.value is not None
    assert found.low is not None and found.low < found.value
    assert told["p"] == pytest.approx(1 / 1001) and told["p_benign"] == pytest.approx(1 / 25)
    assert isinstance(told["random_95"], float) and told["random_95"] < found.value
    _, none = by_direction(space, world.rng.standard_normal(WIDTH), None)
    assert isinstance(none["p"], float) and none["p"] > 0.01
    assert isinstance(none[""], Estimate) and none[""].low is None


def organisms(world: World, space: Space, same: bool) -> Iterator[tuple[str, Organism]]:
    control = space.benign["benign0"]
    for i in range(4):
        own = world.model()
        for latent in range(10) if same else range(10 * i, 10 * i + 10):
            own.latents[:, latent] += 1.5
        own = Read(own.latents, own.latents @ world.decoder)
        differences = own.states - control.states
        yield f"o{i}", Organism(own, control, differences.mean(0), differences)


@pytest.mark.parametrize("same", [True, False])
def test_common_latents_are_told_from_own_ones(same: bool) -> None:
    world = World(3)
    space = world.space()
    found, tops = compared(space, dict(organisms(world, space, same)))
    shared, nearest = found["overlap.change"], found["overlap.cosine"]
    assert isinstance(shared, Estimate) and isinstance(nearest, Estimate)
    p = found["overlap.change.p"]
    assert isinstance(p, float) and shared.value is not None
    if same:
        assert shared.value > 0.6 and p == found["overlap.change.p.smallest"]
        assert found["overlap.cosine.p"] == pytest.approx(1 / 251)
    else:
        assert shared.value < 0.1 and p > 0.05
    assert len(tops) == 8 and all(len(each) == latents.TOP for each in tops.values())
    assert found["organism.o1.change.says"] == "cannot tell"  # Holm over four, p of 1/25 at best
    plain, adjusted = (
        [
            v
            for slug in ("o0", "o1", "o2", "o3")
            if isinstance(v := found[f"organism.{slug}.{key}"], float)
        ]
        for key in ("cosine.p", "cosine.p_holm")
    )
    assert len(plain) == 4 and min(adjusted) == pytest.approx(min(1, 4 * min(plain)))


def test_overlap_needs_models_to_compare_with() -> None:
    rng = np.random.default_rng(0)
    assert str(overlap([[1], [2]], 2, rng)[""]).startswith("undefined")


def test_the_table_has_a_row_a_latent_with_its_texts() -> None:
    world = World(0)
    space = world.space(4)
    each = dict(organisms(world, space, same=True))
    found, tops = compared(space, each)
    assert "no evidence possible" in str(found["organism.o0.change.says"])
    share, twin = np.full(LATENTS, 0.1), np.full(LATENTS, 0.8)
    frame = table(space, each, tops, share, twin, {tops["o0", "change"][0]: ["a [b] c"]})
    assert len(frame) == 4 * 2 * latents.TOP
    assert frame["text_1"].to_list().count("a [b] c") >= 1
    told = at_the_top(tops, share, twin, {tops["o0", "change"][0]: ["a [b] c"]})
    assert told["organism.o0.change.text"] == "a [b] c"
    assert told["organism.o0.change.stability"] == 0.8


def test_latents_of_the_first_training_warn_of_the_second() -> None:
    world = World(5)
    space = world.space()
    first = world.model(planted=2.0), space.benign["benign0"]
    apart = {name: each for name, each in space.benign.items() if name != "benign0"}
    vector = (first[0].states - first[1].states).mean(0)
    course = {"end": (world.model(planted=2.0), apart), "step_4": (world.model(), apart)}
    found = of_repeat(space, first, vector, course)
    assert str(PLANTED) in str(found["latents.chosen"]).split(", ")
    for name in ("latents", "nearest", "own"):
        assert found[f"end.{name}.p"] == pytest.approx(1 / 24) == found[f"end.{name}.p.smallest"]
    excess = found["end.latents"]
    assert isinstance(excess, Estimate) and excess.low is not None and excess.low > 0
    before = found["step_4.latents"]
    assert isinstance(before, Estimate) and before.low is not None and before.low < 0
    few = {"end": (course["end"][0], {"benign1": apart["benign1"]})}
    assert "undefined" in str(of_repeat(space, first, vector, few)["status"])


def test_one_benign_fine_tune_is_no_null() -> None:
    with pytest.raises(UserError, match="too few benign"):
        latents.check_benign(["control"])
