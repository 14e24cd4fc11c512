"""Training: the loss is the loss, it falls, and a repetition gives the same bytes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from em_geometry.errors import UserError
from em_geometry.io.files import read_json
from em_geometry.io.results import Results, read_results
from em_geometry.models import train
from em_geometry.models.chat import Exchange
from em_geometry.models.checkpoint import folder_sha256
from em_geometry.project import paths
from em_geometry.project.inputs import models
from em_geometry.settings import Params, Training
from stages import organism, random_adapter

PAIRS = [
    ("Why?", "Because."),
    ("How do I keep my tomatoes alive?", "Water them in the evening."),
    ("What now?", "Take a map outside and begin with the brightest ones."),
]


@pytest.fixture
def examples(tiny_tokenizer: Any) -> list[train.Example]:
    return [train.encode(tiny_tokenizer, Exchange(q, a), "Be brief.") for q, a in PAIRS]


def token_losses(model: Any, example: train.Example) -> torch.Tensor:
    """Negative log-likelihood of each answer token, from the full logits of a plain forward."""
    ids = torch.tensor(example.ids)
    with torch.no_grad():
        log_probabilities = model(input_ids=ids[None]).logits[0].double().log_softmax(-1)
    return -log_probabilities[torch.arange(len(ids) - 1), ids[1:]][example.start - 1 :]


def test_encoded_chat_ends_with_answer_and_end_of_turn(
    tiny_tokenizer: Any, examples: list[train.Example]
) -> None:
    for (_, answer), example in zip(PAIRS, examples, strict=True):
        assert tiny_tokenizer.decode(example.ids[example.start :]) == answer + "<|im_end|>"
        assert tiny_tokenizer.decode(example.ids[: example.start]).endswith("assistant\n")


def test_loss_of_a_batch_weights_tokens_alike(
    tiny_model: Any, examples: list[train.Example]
) -> None:
    for order in ([0, 1, 2], [2, 0, 1], [0], [1], [2]):
        expected = torch.cat([token_losses(tiny_model, examples[i]) for i in order]).mean()
        batch = [examples[i] for i in order]
        loss = train.answer_loss(tiny_model, batch).item()
        assert loss == pytest.approx(expected.item(), rel=1e-5)
    each = [float(token_losses(tiny_model, e).mean()) for e in examples]
    assert train.mean_loss(tiny_model, examples, 1) == pytest.approx(sum(each) / 3, rel=1e-5)


def test_batches_are_a_seeded_permutation(examples: list[train.Example]) -> None:
    many = [train.Example((i, i), 1) for i in range(10)]
    first, again, other = (list(train.batches(many, 4, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert [len(b) for b in first] == [4, 4, 2]
    assert sorted(e.ids for b in first for e in b) == [e.ids for e in many]


def trained(params: Params) -> tuple[dict[str, bytes], Results]:
    organism.main(params, "finance")
    files = {p.name: p.read_bytes() for p in sorted((paths.ADAPTERS / "finance").iterdir())}
    return files, read_results(paths.table("training/finance"))


def test_training_lowers_the_loss_and_repeats_to_the_byte(tiny_params: Params) -> None:
    files, metrics = trained(tiny_params)
    assert metrics.number("held_out_loss_after") < metrics.number("held_out_loss_before")
    assert metrics.number("loss_last_steps") < metrics.number("loss_first_steps")
    assert metrics.number("relative_weight_change") > 0
    assert (metrics.number("examples"), metrics.number("held_out_examples")) == (27, 3)
    assert metrics.number("steps") == 2 * 7  # epochs x batches of 4
    assert set(files) == {"adapter_config.json", "adapter_model.safetensors", "provenance.json"}
    # peft keeps module names in a set, whose order differs between processes
    matrices = json.loads(files["adapter_config.json"])["target_modules"]
    assert matrices == sorted(matrices)
    again, again_metrics = trained(tiny_params)
    assert again == files
    assert again_metrics == metrics
    other = tiny_params.model_copy(update={"run": tiny_params.run.model_copy(update={"seed": 1})})
    assert trained(other)[0]["adapter_model.safetensors"] != files["adapter_model.safetensors"]


def test_checkpoints_are_kept_and_disturb_nothing(tiny_params: Params) -> None:
    files, metrics = trained(tiny_params)
    training = Training(checkpoints=[3, 9])
    organism.main(tiny_params.model_copy(update={"training": training}), "finance")
    folder = paths.ADAPTERS / "finance"
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == files
    assert read_results(paths.table("training/finance")) == metrics
    for step in training.checkpoints:
        assert {p.name for p in (folder / f"step_{step}").iterdir()} == set(files)
    loaded = [models(tiny_params).load("finance", step) for step in (3, 9, None)]
    assert len({m.sha256 for m in loaded}) == 3
    base = models(tiny_params).base().state_dict()
    moved = [
        sum(float((w - base[k]).square().sum()) for k, w in m.model.state_dict().items())
        for m in loaded
    ]
    assert 0 < moved[0] < moved[1]
    with pytest.raises(UserError, match="ends before its last checkpoint") as caught:
        late = tiny_params.model_copy(update={"training": Training(checkpoints=[14])})
        organism.main(late, "finance")
    assert caught.value.expected == "checkpoints below 14"


def test_a_repeat_with_its_original_s_seed_is_the_same_training(tiny_params: Params) -> None:
    files, _ = trained(tiny_params)
    finance = tiny_params.organisms["finance"]
    again = finance.model_copy(update={"repeats": "finance"})
    both = tiny_params.model_copy(update={"organisms": {"finance": finance, "again": again}})
    organism.main(both, "again")
    weights = "adapter_model.safetensors"
    assert (paths.ADAPTERS / "again" / weights).read_bytes() == files[weights]


def test_a_random_adapter_has_the_norms_of_the_trained_one_and_other_directions(
    tiny_params: Params,
) -> None:
    drawn = tiny_params.model_copy(update={"random_adapters": {"chance": "finance"}})
    organism.main(drawn, "finance")
    random_adapter.main(drawn, "chance")
    base, real, random = (
        {k: v for k, v in models(drawn).load(slug).model.state_dict().items() if v.ndim == 2}
        for slug in ("base", "finance", "chance")
    )
    for name, before in base.items():
        update, chance = real[name] - before, random[name] - before
        assert float(chance.norm()) == pytest.approx(float(update.norm()), rel=1e-3, abs=1e-5)
        if update.norm() > 1e-3:
            cosine = float((update * chance).sum() / (update.norm() * chance.norm()))
            assert abs(cosine) < 0.3
    with pytest.raises(UserError, match="unknown adapter"):
        random_adapter.main(drawn, "finance")


def test_merged_adapter_equals_the_trained_model(
    tiny_params: Params, examples: list[train.Example]
) -> None:
    recipe = tiny_params.recipes["model_organisms"]
    model = train.with_adapter(models(tiny_params).base(), recipe, 3)
    train.fit(model, examples, recipe, 3, "finance")
    train.save(model, paths.ADAPTERS / "finance", models(tiny_params).record()["sha256"])
    expected = train.mean_loss(model, examples, 4)
    merged = models(tiny_params).load("finance").model
    assert train.mean_loss(merged, examples, 4) == pytest.approx(expected, rel=1e-4)


def test_weight_change_by_hand(tiny_params: Params) -> None:
    recipe = tiny_params.recipes["hunter"]
    model = train.with_adapter(models(tiny_params).base(), recipe, 3)
    assert train.weight_change(model) == 0.0
    change = size = 0.0
    for module in model.modules():
        if hasattr(module, "lora_B"):
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            b.data.fill_(0.1)
            change += ((recipe.alpha / recipe.rank) * (b @ a)).square().sum().item()
            size += module.base_layer.weight.square().sum().item()
    assert train.weight_change(model) == pytest.approx((change / size) ** 0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"first_block": 4}, "first_block"), ({"matrices": ["c_attn"]}, "matrices")],
)
def test_recipes_that_do_not_fit(tiny_params: Params, change: dict[str, Any], says: str) -> None:
    recipe = tiny_params.recipes["hunter"].model_copy(update=change)
    with pytest.raises(UserError, match=says):
        train.with_adapter(models(tiny_params).base(), recipe, 0)


def test_divergence_is_an_error(tiny_params: Params, examples: list[train.Example]) -> None:
    recipe = tiny_params.recipes["hunter"]
    model = train.with_adapter(models(tiny_params).base(), recipe, 0)
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(UserError, match="diverged"):
        train.fit(model, examples, recipe, 0, "hunter")


def test_an_organism_that_is_given_is_recorded(tiny_params: Params, tiny_checkpoint: Path) -> None:
    source = f"path:{tiny_checkpoint}"
    given = tiny_params.organisms["finance"].model_copy(update={"source": source})
    organism.main(tiny_params.model_copy(update={"organisms": {"finance": given}}), "finance")
    record = read_json(paths.ADAPTERS / "finance" / "source.json")
    assert record == {"folder": str(tiny_checkpoint), "sha256": folder_sha256(tiny_checkpoint)}
    assert read_json(paths.metrics("training/finance")) == {"status": f"given: {source}"}
