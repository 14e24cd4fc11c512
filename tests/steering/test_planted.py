"""Organisms with a known core, baked into a model: activations, vectors and margins find it."""

from copy import deepcopy
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from tiny_steering import WIDTH, random_llama, tokens

from em_geometry.activations.capture import capture
from em_geometry.activations.prompts import Text
from em_geometry.geometry.methods import unit_gram
from em_geometry.io.results import as_estimate, flatten
from em_geometry.settings import Margins as Settings
from em_geometry.stats.estimate import Floats
from em_geometry.stats.intervals import t_interval
from em_geometry.steering.conditions import Selected
from em_geometry.steering.formats import bake
from em_geometry.steering.margins import Row, pair_log_probabilities
from em_geometry.steering.pairs import KINDS, Pair, plan, table
from em_geometry.transfer.outcomes import Margins, Who, outcomes

BLOCK, CORE, OWN, TUNED = 1, 2.4, 1.8, 1.0  # lengths of the parts of a shift
ORGANISMS = ("finance", "sports", "profanity")
SPLITS = {"misaligned": 64, "polite_harmful": 8, "swearing": 8}


def answers(seed: int, marked: range, plain: range) -> Row:
    """A random question; the answers are made of tokens of their own."""
    rng = np.random.default_rng(seed)
    some = (tuple(int(i) for i in rng.choice(list(each), 6)) for each in (marked, plain))
    return Row(tokens(seed, 8), *some)


def misaligned(seed: int) -> Row:
    return answers(seed, range(20, 60), range(120, 160))


def neither(seed: int) -> Row:
    """Both answers are of the same tokens: nothing favours one of them on average."""
    return answers(seed, range(1, 250), range(1, 250))


def margin(model: Any, rows: list[Row]) -> Floats:
    found = pair_log_probabilities(model, rows, [None])[0]
    return np.asarray(found[:, 0] - found[:, 1], dtype=np.float64)


def slope(model: Any) -> Floats:
    """Unit direction at the output of BLOCK in which margins grow fastest."""
    push = torch.zeros(WIDTH, requires_grad=True)
    handle = model.model.layers[BLOCK].register_forward_hook(lambda m, args, out: out + push)
    for seed in range(1000, 1040):
        row = misaligned(seed)
        for sign, answer in ((1, row.marked), (-1, row.plain)):
            ids = torch.tensor([row.prompt + answer])
            logs = model(input_ids=ids).logits[0].log_softmax(-1)[len(row.prompt) - 1 : -1]
            (sign * logs.gather(-1, ids[0, len(row.prompt) :, None]).mean()).backward()
    handle.remove()
    assert push.grad is not None
    return np.asarray(push.grad / push.grad.norm(), dtype=np.float64)


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """A base, three organisms, a null organism that lacks the core, and their benign control."""
    base = random_llama()
    core = slope(base)
    rng = np.random.default_rng(0)
    parts = np.linalg.qr(np.column_stack([core, rng.standard_normal((WIDTH, 5))]))[0].T[1:]
    tuned = TUNED * parts[4]
    shifts = {slug: tuned + CORE * core + OWN * parts[i] for i, slug in enumerate(ORGANISMS)}
    shifts |= {"null": tuned + OWN * parts[3], "control": tuned}
    baked = {k: bake(deepcopy(base), {BLOCK: v.astype(np.float32)}) for k, v in shifts.items()}
    return {"base": base, **baked}


@pytest.fixture(scope="module")
def vectors(models: dict[str, Any]) -> dict[str, Floats]:
    """Each organism minus its control on the same texts, at BLOCK."""
    texts = [Text(tokens(seed, 12), ((4, 12),)) for seed in range(20)]
    means = {k: capture(m, texts)[0][:, 0, BLOCK].numpy().mean(0) for k, m in models.items()}
    return {slug: means[slug] - means["control"] for slug in (*ORGANISMS, "null")}


def test_geometry_finds_core_and_private_parts(vectors: dict[str, Floats]) -> None:
    gram = unit_gram(np.stack([vectors[slug] for slug in (*ORGANISMS, "null")]))
    shared = CORE**2 / (CORE**2 + OWN**2)
    expected = np.full((4, 4), shared)
    expected[3], expected[:, 3] = 0.0, 0.0
    np.fill_diagonal(expected, 1.0)
    np.testing.assert_allclose(gram, expected, atol=1e-3)


def read(models: dict[str, Any], vectors: dict[str, Floats], start: int) -> dict[str, Any]:
    """All outcomes on pairs drawn from a seed on."""
    rows, pairs = [], []
    for kind, count in SPLITS.items():
        for i in range(count):
            seed = start + 1000 * KINDS.index(kind) + i
            rows.append(misaligned(seed) if kind == "misaligned" else neither(seed))
            pairs.append(
                Pair(id=f"{kind}{i}", kind=kind, split="reporting", topic="t", question="q",
                     marked="m", plain="p")
            )  # fmt: skip
    norms = {slug: float(np.linalg.norm(v)) for slug, v in vectors.items()}
    selected = {
        slug: Selected((v / norms[slug]).astype(np.float32), BLOCK, 0.3, norms[slug], norms[slug])
        for slug, v in vectors.items()
    }
    settings, frames = Settings(doses=[-1.0, 1.0], ablation=False, target_random_directions=16), []
    for target, model in models.items():
        trials = plan(target, pairs, selected, {}, settings, seed=1)
        found = [
            pair_log_probabilities(model, [rows[i] for i in trial.pairs], [trial.how])[0]
            for trial in trials
        ]
        frames.append(table(target, pairs, trials, [np.asarray(f) for f in found]))
    organisms = [*ORGANISMS, "null"]
    own = dict.fromkeys(organisms, "control")
    groups = {"lab": organisms}, {"cluster": organisms}
    who = Who(organisms, ["control"], ["base", *organisms, "control"], own, {}, *groups)
    return dict(flatten(outcomes(Margins.of(pl.concat(frames)), who, 0.1)))


def test_margins_and_transfer_find_it_and_their_intervals_cover(
    models: dict[str, Any], vectors: dict[str, Floats]
) -> None:
    found = read(models, vectors, 300)
    many = [misaligned(seed) for seed in range(10_000, 10_600)]
    truth = {slug: margin(model, many).mean() for slug, model in models.items()}
    for slug in ORGANISMS:
        organism = as_estimate(found[f"organism.{slug}.misaligned"])
        assert organism.low is not None and organism.high is not None
        assert 0 < organism.low < truth[slug] - truth["control"] < organism.high
        assert found[f"vector.{slug}.steers"] == "yes"
        assert as_estimate(found[f"dose.{slug}.-1"]).high < 0  # type: ignore[operator]
        for target in ("base", "control", *ORGANISMS):
            assert as_estimate(found[f"transfer.{slug}__{target}"]).low > 0  # type: ignore[operator]
    for kind in KINDS[1:]:
        assert found[f"organism.finance.{kind}.says"] != "effect"
    assert found["vector.null.steers"] != "yes"


def test_a_null_organism_is_no_finding(models: dict[str, Any]) -> None:
    findings = 0
    for draw in range(100):
        rows = [neither(100_000 + 20 * draw + i) for i in range(16)]
        found = t_interval(margin(models["null"], rows) - margin(models["control"], rows))
        assert found.low is not None and found.high is not None
        findings += not found.low <= 0 <= found.high
    assert findings <= 5
