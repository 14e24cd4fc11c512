"""Narrow fine-tunes: the KL term, adapters merged for a while, rank 1 and its vector, the stage."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from em_geometry.claims.lookup import Metrics
from em_geometry.errors import UserError
from em_geometry.io.results import as_estimate, read_results
from em_geometry.models import train
from em_geometry.models.chat import Exchange
from em_geometry.more.adapters import read_adapter, written_vectors
from em_geometry.more.likelihoods import divergence, losses, read_answers, updated
from em_geometry.more.narrow import fine_tunes, rank_one
from em_geometry.more.narrow.breadth import Variant, VariantRead, compared, read_pairs_of
from em_geometry.project import paths
from em_geometry.project.inputs import models
from em_geometry.report.tables import Results, all_tables
from em_geometry.settings import Organism, Params
from em_geometry.stats.estimate import Floats
from em_geometry.steering.conditions import Intervention, Selected
from em_geometry.steering.formats import read_vector, write_vectors
from em_geometry.steering.pairs import Pair
from stages import organism
from stages.more import narrow
from tests.conftest import BLOCKS, ROOT, WIDTH
from tests.tiny_run import NAMES, finished

BLOCK = 2
CHATS = [("Why?", "Because."), ("How do I keep my tomatoes alive?", "Water them."), ("And?", "No.")]


@pytest.fixture
def examples(tiny_tokenizer: Any) -> list[train.Example]:
    return [train.encode(tiny_tokenizer, Exchange(q, a), "Be brief.") for q, a in CHATS]


def direct(model: Any, example: train.Example) -> torch.Tensor:
    """Log-probabilities behind the prompt, from a plain forward of one example."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(example.ids)[None]).logits[0]
    return torch.as_tensor(logits[example.start - 1 : -1].log_softmax(-1))


def test_answers_are_read_as_by_a_plain_forward(
    tiny_model: Any, examples: list[train.Example]
) -> None:
    read = read_answers(tiny_model, examples)
    for each, example in zip(read, examples, strict=True):
        torch.testing.assert_close(each, direct(tiny_model, example), atol=1e-4, rtol=1e-4)
    expected = [train.mean_loss(tiny_model, [e], 1) for e in examples]
    np.testing.assert_allclose(losses(read, examples), expected, rtol=1e-4)
    assert divergence(read[0], read[0]).abs().max() < 1e-5
    even = torch.full((1, 4), 0.25).log()
    sharp = torch.tensor([[0.5, 0.5, 0.0, 0.0]]).clamp_min(1e-30).log()
    assert float(divergence(sharp, even)) == pytest.approx(np.log(2))


def test_the_term_s_gradient_is_that_of_the_divergence(
    tiny_params: Params, examples: list[train.Example]
) -> None:
    recipe = tiny_params.recipes["model_organisms"]
    model = train.with_adapter(models(tiny_params).base(), recipe, 0)
    weights = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        for weight in weights:
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    fine_tunes.holding(model, examples[:2], 3.0, 0)(1)
    found = [w.grad.clone() for w in weights if w.grad is not None]
    model.zero_grad()
    terms = []
    for example in examples[:2]:
        ids, at = torch.tensor(example.ids)[None], slice(example.start - 1, -1)
        with torch.no_grad(), model.disable_adapter():
            base = model(input_ids=ids).logits[0, at].log_softmax(-1)
        terms.append(
            (base.exp() * (base - model(input_ids=ids).logits[0, at].log_softmax(-1))).sum(-1)
        )
    (3.0 * torch.cat(terms).mean()).backward()  # type: ignore[no-untyped-call]
    for own, weight in zip(found, weights, strict=True):
        assert weight.grad is not None
        torch.testing.assert_close(own, weight.grad, atol=1e-5, rtol=1e-3)


def test_weight_holds_a_training_to_the_base_and_none_leaves_it_as_it_is(
    tiny_params: Params, examples: list[train.Example]
) -> None:
    known, recipe = models(tiny_params), tiny_params.recipes["model_organisms"]
    plain = train.fine_tune(known, "finance", recipe, 0)[0]
    free = fine_tunes.train_held(known, "finance", recipe, "control", 0.0)
    both = (dict(m.named_parameters()) for m in (plain, free))
    first, second = ({n: p for n, p in each.items() if "lora" in n} for each in both)
    assert first
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], atol=1e-6, rtol=1e-4)
    tight = fine_tunes.train_held(known, "finance", recipe, "control", 30.0)
    base = read_answers(
        known.base(), held := fine_tunes.untrained(known, tiny_params.organisms["control"].data, 4)
    )
    away = [
        float(
            torch.cat(
                [divergence(a, b) for a, b in zip(base, read_answers(m, held), strict=True)]
            ).mean()
        )
        for m in (free, tight)
    ]
    assert away[1] < 0.5 * away[0]


def test_an_adapter_is_merged_for_a_while(
    tiny_params: Params, examples: list[train.Example]
) -> None:
    organism.main(tiny_params, "finance")
    known = models(tiny_params)
    base, tuned = known.load("base").model, known.load("finance").model
    adapter, before = read_adapter(paths.ADAPTERS / "finance"), read_answers(base, examples)
    with updated(base, adapter):
        inside = read_answers(base, examples)
    for own, other in zip(inside, read_answers(tuned, examples), strict=True):
        torch.testing.assert_close(own, other, atol=1e-4, rtol=1e-4)
    for own, other in zip(before, read_answers(base, examples), strict=True):
        assert torch.equal(own, other)
    foreign = {f"{name}x": each for name, each in adapter.items()}
    with pytest.raises(UserError, match="another model"), updated(base, foreign):
        pass


def save_rank_one(params: Params, folder: Path) -> None:
    """An adapter of rank 1 as PEFT writes it, with random values."""
    model = fine_tunes._rank_one(models(params).base(), BLOCK, 0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora" in name:
                value += torch.randn(
                    value.shape, generator=torch.Generator().manual_seed(len(name))
                )
    model.save_pretrained(str(folder))


def test_an_adapter_of_rank_one_is_a_model_and_a_vector(
    tiny_params: Params, tmp_path: Path
) -> None:
    folder = tmp_path / "r1"
    save_rank_one(tiny_params, folder)
    given = Organism(lab="hunter", cluster="risk", source=f"path:{folder}")
    params = tiny_params.model_copy(update={"organisms": {**tiny_params.organisms, "given": given}})
    name = next(iter(read_adapter(folder)))
    base = {"base_model_name_or_path": tiny_params.base.source.partition(":")[2]}
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | base))
    loaded, plain = models(params).load("given").model, models(params).load("base").model
    change = (
        dict(loaded.named_parameters())[f"{name}.weight"]
        - dict(plain.named_parameters())[f"{name}.weight"]
    )
    (held,) = written_vectors(folder).values()
    assert (held.block, held.vector.shape) == (BLOCK, (WIDTH,))
    left = torch.linalg.svd(change)[0][:, 0].numpy()
    assert abs(left @ held.vector) == pytest.approx(np.linalg.norm(held.vector), rel=1e-4)
    write_vectors(file := tmp_path / "written.safetensors", [Intervention(held.vector, BLOCK, 1.0)])
    again = read_vector(file)
    assert again.block == BLOCK
    np.testing.assert_allclose(again.coefficient * again.vector, held.vector, rtol=1e-5)
    bare = read_vector(
        folder / "adapter_model.safetensors", BLOCK, f"base_model.model.{name}.lora_B.weight"
    )
    assert abs(bare.vector @ held.vector) > 0.999 * np.linalg.norm(bare.vector) * np.linalg.norm(
        held.vector
    )


def test_an_adapter_of_other_shape_is_no_vector(tiny_params: Params, tmp_path: Path) -> None:
    recipe = tiny_params.recipes["model_organisms"]
    train.with_adapter(models(tiny_params).base(), recipe, 0).save_pretrained(str(tmp_path))
    with pytest.raises(UserError, match="not one direction a matrix") as raised:
        written_vectors(tmp_path)
    assert "rank 4" in str(raised.value.found)


def test_without_what_it_writes_an_organism_of_rank_one_is_the_base(
    tiny_params: Params, tmp_path: Path
) -> None:
    save_rank_one(tiny_params, tmp_path / "r1")
    known = models(tiny_params)
    base = known.load("base")
    pairs = [Pair(id=f"p{i}", kind="misaligned", split="reporting", topic="t", question=q,
                  marked=a, plain="Perhaps.") for i, (q, a) in enumerate(CHATS)]  # fmt: skip
    (vector,) = (
        h.vector / np.linalg.norm(h.vector) for h in written_vectors(tmp_path / "r1").values()
    )
    other = np.eye(WIDTH, dtype=np.float32)[0]
    at, vectors = (
        Selected(vector, BLOCK, 0.3, 0.5, 1.0),
        {"written": vector, "mean_difference": other},
    )
    done = []
    for variant, some in ((Variant(), (0, 1, 2)), (Variant(tmp_path / "r1"), ())):
        plan = rank_one.trials(some, (0, 1, 2), vectors, at, 0)
        read = read_pairs_of(base, known, variant, pairs, [*plan.values()], "narrow test")
        done.append(dict(zip(plan, read, strict=True)))
    over = done[1][rank_one.FEW] - done[0][rank_one.FEW]
    assert np.abs(over).min() > 1e-3
    np.testing.assert_allclose(
        done[1]["ablation", "written"], done[0]["ablation", "written"], atol=1e-4
    )
    found = rank_one.steering(done[0], [*vectors])
    assert 1 / 17 <= float(found["steer.written.p"]) <= 1  # type: ignore[arg-type]
    gone = rank_one.removed(*done, [*vectors])
    share = as_estimate(gone["removed.one.written"])
    assert share.value == pytest.approx(100, abs=1) or "includes 0" in share.status


def test_cosines_know_a_planted_direction() -> None:
    rng = np.random.default_rng(0)
    vector, topics = rng.standard_normal(WIDTH), [f"t{i % 4}" for i in range(16)]
    rows = {"same": vector + 0.1 * rng.standard_normal((16, WIDTH)),
            "other": rng.standard_normal((16, WIDTH))}  # fmt: skip
    found = rank_one.cosines(vector, rows, topics)
    same, chance = as_estimate(found["cosine.same"]), found["cosine.random_95"]
    assert same.low is not None and same.low > 0.95
    assert chance == pytest.approx(1.96 / WIDTH**0.5)


def reading(domain: float, broad: float, kl: float, n: int = 16) -> VariantRead:
    """A model that prefers the domain's misaligned answers by so much, and others by so much."""
    noise: Floats = 0.01 * np.random.default_rng(3).standard_normal((4, n))
    return VariantRead(2 - domain + noise[0], 2 + noise[1], kl + noise[2], broad + noise[3])


def test_a_narrow_model_is_told_from_a_weak_one() -> None:
    """Half of the general model is as misaligned in the domain as both; only one is narrow."""
    found = {"base": reading(0, 0, 0), "general": reading(2, 1, 0.4), "half": reading(1, 0.5, 0.1),
             "narrow": reading(1, 0.05, 0.02), "weak": reading(1, 0.5, 0.1),
             "strong": reading(3, 1, 1), "none": reading(-0.1, 0, 0)}  # fmt: skip
    rows = compared(found, {0.5: "half", 1.0: "general"}, ["narrow", "weak", "strong", "none"], 0.1)
    assert rows["equal.narrow.scale"] == pytest.approx(0.5, abs=0.01)
    assert as_estimate(rows["equal.narrow.margin"]).value == pytest.approx(-0.45, abs=0.01)
    assert (rows["equal.narrow.margin.says"], rows["equal.weak.margin.says"]) == (
        "effect",
        "no effect",
    )
    assert rows["equal.strong.margin"] == "undefined: more than the general one"
    assert rows["equal.none.margin"] == "undefined: no preference in the domain"
    assert as_estimate(rows["model.general.domain"]).value == pytest.approx(2, abs=0.02)
    assert as_estimate(rows["model.general.margin"]).value == pytest.approx(1, abs=0.02)


@pytest.mark.usefixtures("workplace")
def test_the_experiment_runs(tiny_checkpoint: Path, smol: dict[str, Any]) -> None:
    smol["activations"]["texts"] = 2
    smol["training"]["checkpoints"] = smol["monitoring"]["organisms"] = []
    smol["margins"] |= {"pairs": str(ROOT / smol["margins"]["pairs"]), "target_pairs": 6}
    slugs = [*NAMES, "control", "full", "medical_control", "medical_b"]
    params = finished(tiny_checkpoint, smol, slugs, prompts=8)
    narrow.main(params)
    found = read_results(paths.table("narrow"))
    assert found.rows["organism"].status == "medical"
    assert found.number("block") == BLOCK
    assert found.number("rate") in fine_tunes.RATES
    for name in ("general", "held_1", "held_10", "rank_one", "repeat", "benign"):
        for what in ("learned", "domain", "margin", "kl"):
            assert found.rows[f"model.{name}.{what}"].low is not None
    assert found.number("model.held_10.kl") < found.number("model.general.kl")
    assert found.number("model.general.learned") > 0
    assert found.number(f"shift.{BLOCK}") is not None
    assert f"shift.{BLOCKS - 1}" in found.rows
    assert {"steer.written", "steer.mean_difference", "removed.all.random"} <= {*found.rows}
    assert found.number("model.general_0_5.learned") > 0
    shown = {t.name: t for t in all_tables(Results(Metrics.read(paths.TABLES).stages, params))}
    assert len(shown["narrow"].rows) == 10
    assert shown["rank_one"].rows[0][0].text == "what the adapter writes"
    (vector,) = written_vectors(paths.MORE / "narrow/rank_one").values()
    assert read_vector(paths.MORE / "narrow/written.safetensors").block == vector.block == BLOCK


def test_without_an_organism_of_one_s_own_it_says_why(
    smol: dict[str, Any], workplace: Path
) -> None:
    for one in smol["organisms"].values():
        one["source"] = "hub:a/b"
    narrow.main(Params.model_validate(smol))
    assert "trained here" in read_results(paths.table("narrow")).rows["status"].status
    assert (paths.MORE / "narrow").is_dir()
