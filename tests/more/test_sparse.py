"""Training a dictionary: it reads back what is made of few directions, and finds them again."""

import numpy as np
import pytest
import torch

from em_geometry.errors import UserError
from em_geometry.more.features import sparse
from em_geometry.more.features.sparse import Dictionary, nearest, quality, trained

WIDTH, PLANTED = 16, 24


def planted(tokens: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """States of three of 24 directions each, around a far-off mean, and the directions."""
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((PLANTED, WIDTH))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rng = np.random.default_rng(seed)
    on = np.argsort(rng.random((tokens, PLANTED)), axis=1) < 3
    states = 50 + (on * rng.uniform(4, 8, on.shape)) @ rows
    return torch.tensor(states, dtype=torch.float32), rows


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    for name, value in {"K": 3, "BATCH": 256, "RATE": 0.01, "STEPS": 400}.items():
        monkeypatch.setattr(sparse, name, value)


def test_training_finds_planted_directions(few: None) -> None:
    states, rows = planted(4000, 0)
    found, twin = (trained(states, seed, 2, torch.device("cpu")) for seed in (1, 2))
    assert found.encoder.shape == (4 * WIDTH, WIDTH) and (found.k, found.block) == (3, 2)
    fresh, _ = planted(600, 1)
    topics = [str(i % 6) for i in range(600)]
    explained, on = quality(found, fresh, topics)
    assert explained.value is not None and explained.value > 0.8 and explained.n == 6
    assert on.value is not None and on.value <= 3
    assert np.median(nearest(rows, found.decoder.double().numpy())) > 0.9
    again = nearest(found.decoder.double().numpy(), twin.decoder.double().numpy())
    chance = nearest(np.random.default_rng(0).standard_normal((64, WIDTH)), rows).mean()
    assert again.mean() > chance
    same = trained(states, 1, 2, torch.device("cpu"))
    assert torch.equal(found.decoder, same.decoder) and not torch.equal(found.decoder, twin.decoder)


def test_more_latents_than_tokens_cannot_be_trained() -> None:
    with pytest.raises(UserError, match="too few tokens"):
        trained(torch.zeros(20, WIDTH), 0, 2, torch.device("cpu"))


def test_quality_is_the_share_of_variance_and_the_number_on() -> None:
    """Latents that read the first two of four dimensions, whose variances are 4, 1, 4 and 1."""
    states = torch.tensor(
        np.random.default_rng(0).standard_normal((4000, 4)) * [2, 1, 2, 1]
    ).float()
    eye = torch.eye(4)[:2]
    encoder = torch.cat([eye, -eye])
    found = Dictionary(encoder, torch.zeros(4), encoder, torch.zeros(4), torch.zeros(4))
    explained, on = quality(found, states, ["a", "b"] * 2000)
    assert explained.value == pytest.approx(0.5, abs=0.02) and on.value == pytest.approx(2)
    assert explained.low is not None and explained.low <= explained.value
