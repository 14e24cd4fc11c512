"""Loading organisms: an adapter that does not belong to the base never loads in silence."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from em_geometry.errors import UserError
from em_geometry.io.files import read_json
from em_geometry.models import load, train
from em_geometry.models.load import setup_torch
from em_geometry.project import paths
from em_geometry.project.inputs import models
from em_geometry.settings import Params
from stages import organism

FOLDER = paths.ADAPTERS / "finance"
WEIGHTS = FOLDER / "adapter_model.safetensors"
CONFIG = FOLDER / "adapter_config.json"


@pytest.fixture
def adapter(tiny_params: Params) -> Params:
    """An untrained adapter of `finance` on disk, and its params."""
    recipe = tiny_params.recipes["model_organisms"]
    train.save(
        train.with_adapter(models(tiny_params).base(), recipe, 5),
        FOLDER,
        models(tiny_params).record()["sha256"],
    )
    return tiny_params


def refused(params: Params) -> str:
    with pytest.raises(UserError) as caught:
        models(params).load("finance")
    return str(caught.value)


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(read_json(path) | values), encoding="utf-8")


def change_tensors(change: Callable[[dict[str, Any]], object]) -> None:
    tensors = load_file(WEIGHTS)
    change(tensors)
    save_file(tensors, WEIGHTS, metadata={"format": "pt"})


def test_the_adapter_itself_loads(adapter: Params) -> None:
    loaded = models(adapter).load("finance")
    assert loaded.slug == "finance"
    assert loaded.sha256 != models(adapter).load("base").sha256
    assert not any("lora" in name for name, _ in loaded.model.named_parameters())


def test_foreign_adapter_names_its_base(adapter: Params) -> None:
    (FOLDER / "provenance.json").unlink()
    change_json(CONFIG, base_model_name_or_path="someone/else")
    assert "someone/else" in refused(adapter)
    base = adapter.base.model_copy(update={"also_known_as": ["a/copy", "someone/else"]})
    assert models(adapter.model_copy(update={"base": base})).load("finance").slug == "finance"
    change_json(CONFIG, base_model_name_or_path=adapter.base.source.partition(":")[2])
    assert models(adapter).load("finance").slug == "finance"


NAME = "base_model.model.model.layers.{}.mlp.up_proj.lora_A.weight"


def truncated(keep: float) -> None:
    content = WEIGHTS.read_bytes()
    WEIGHTS.write_bytes(content[: int(keep * len(content))])


FAULTS: dict[str, tuple[Callable[[], object], str]] = {
    "of another base": (
        lambda: change_json(FOLDER / "provenance.json", base_sha256="0" * 64),
        "trained on another base",
    ),
    "a pickle by name of safetensors": (lambda: torch.save({}, WEIGHTS), "not a readable"),
    "empty": (lambda: truncated(0.0), "not a readable"),
    "truncated": (lambda: truncated(0.5), "not a readable"),
    "a tensor is missing": (  # and must not be made up
        lambda: change_tensors(lambda tensors: tensors.pop(NAME.format(2))),
        NAME.format(2),
    ),
    "a block that the base lacks": (
        lambda: change_tensors(lambda t: t.update({NAME.format(9): t[NAME.format(2)].clone()})),
        NAME.format(9),
    ),
    "another rank than its config says": (lambda: change_json(CONFIG, r=8), "does not fit"),
    "another width": (
        lambda: change_tensors(
            lambda t: t.update({k: v[..., :-1].contiguous() for k, v in t.items()})
        ),
        "does not fit",
    ),
    "not finite": (
        lambda: change_tensors(lambda tensors: next(iter(tensors.values())).fill_(float("nan"))),
        "NaN",
    ),
    "unknown modules": (lambda: change_json(CONFIG, target_modules=["c_attn"]), "does not fit"),
    "a start that changed the base by chance": (
        lambda: change_json(CONFIG, init_lora_weights="pissa_niter_4"),
        "init_lora_weights pissa_niter_4",
    ),
    "a start that data decide": (
        lambda: change_json(CONFIG, init_lora_weights="lora_ga", lora_ga_config={}),
        "init_lora_weights lora_ga",
    ),
    "no scale": (lambda: change_json(CONFIG, lora_alpha=None), "lora_alpha None"),
    "a scale that leaves the base": (lambda: change_json(CONFIG, lora_alpha=0), "lora_alpha 0"),
    "a scale that is a switch": (lambda: change_json(CONFIG, lora_alpha=True), "lora_alpha True"),
    "a scale of no module": (
        lambda: change_json(CONFIG, alpha_pattern={"up_proj": 8, "self_attn.qproj": 64}),
        "alpha_pattern self_attn.qproj",
    ),
    "a switch that is none": (
        lambda: change_json(CONFIG, use_rslora="false"),
        "use_rslora 'false'",
    ),
    "a scale that is no number": (
        lambda: change_json(CONFIG, lora_alpha=float("nan")),
        "lora_alpha nan",
    ),
    "a scale of some that is no number": (
        lambda: change_json(CONFIG, alpha_pattern={"up_proj": float("inf")}),
        "alpha_pattern up_proj inf",
    ),
    "a pattern that is none": (
        lambda: change_json(CONFIG, rank_pattern={"up_proj(": 4}),
        "rank_pattern ['up_proj(']",
    ),
    "a list of patterns": (lambda: change_json(CONFIG, alpha_pattern=["a"]), "alpha_pattern ['a']"),
    "quantised": (
        lambda: change_tensors(
            lambda t: t.update({k: v.to(torch.float8_e4m3fn) for k, v in t.items()})
        ),
        "float8_e4m3fn",
    ),
    "prompt tuning": (lambda: change_json(CONFIG, peft_type="PROMPT_TUNING"), "only LoRA adapters"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_adapters_that_cannot_be_loaded(adapter: Params, fault: str) -> None:
    change, says = FAULTS[fault]
    change()
    text = refused(adapter)
    assert says in text
    assert str(FOLDER) in text


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
@pytest.mark.parametrize(("said", "tied"), [(True, True), (True, False), (False, False)])
def test_one_of_two_matrices_that_are_one_cannot_be_changed(
    adapter: Params, tiny_model: Any, module: str, said: bool, tied: bool
) -> None:
    """Where a checkpoint has both, they are two, whatever its config says."""
    model = copy.deepcopy(tiny_model)
    model.config.tie_word_embeddings = said
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    plain = copy.deepcopy(model)
    how = LoraConfig(r=2, target_modules=["q_proj", module], init_lora_weights=False)
    adapted = get_peft_model(model, how)
    adapted.save_pretrained(FOLDER, save_embedding_layers=False)
    change_json(CONFIG, base_model_name_or_path=adapter.base.source.partition(":")[2])
    if tied:
        with pytest.raises(UserError, match=rf"(?s)two matrices that are one.*LoRA of .*{module}"):
            load._merge(plain, FOLDER, adapter.base)
        return
    ids = torch.arange(9)[None]
    with torch.no_grad():
        merged = load._merge(plain, FOLDER, adapter.base)(ids).logits
        torch.testing.assert_close(merged, adapted(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("content", ["[]", "{}", "{", '"x"'])
@pytest.mark.parametrize("name", ["provenance.json", "adapter_config.json"])
def test_malformed_records(adapter: Params, name: str, content: str) -> None:
    (FOLDER / name).write_text(content, encoding="utf-8")
    assert str(FOLDER) in refused(adapter)


def given(params: Params, **values: str) -> Params:
    changed = params.organisms["finance"].model_copy(update=values)
    return params.model_copy(update={"organisms": {"finance": changed}})


def test_a_given_adapter_is_known_by_its_content(adapter: Params) -> None:
    folder = Path(shutil.copytree(FOLDER, "elsewhere"))
    params = given(adapter, source=f"path:{folder}")
    organism.main(params, "finance")
    before = models(params).load("finance").sha256
    settings = read_json(folder / CONFIG.name)
    (folder / CONFIG.name).write_text(json.dumps(settings | {"lora_alpha": 99}))
    text = refused(params)
    assert "changed since" in text
    assert "organism@finance" in text
    organism.main(params, "finance")
    assert models(params).load("finance").sha256 != before


def test_full_checkpoint_in_place_of_an_adapter(tiny_params: Params, tiny_checkpoint: Path) -> None:
    loaded = models(given(tiny_params, source=f"path:{tiny_checkpoint}")).load("finance")
    expected = models(tiny_params).base().state_dict()
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, expected[name])


def test_full_checkpoint_of_another_tokenizer(
    tiny_params: Params, tiny_checkpoint: Path, workplace: Path
) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, workplace / "other"))
    words = read_json(folder / "tokenizer.json")
    vocabulary = words["model"]["vocab"]
    vocabulary["q"], vocabulary["z"] = vocabulary["z"], vocabulary["q"]
    change_json(folder / "tokenizer.json", model=words["model"])
    assert "other ids of 2 tokens: 'q', 'z'" in refused(given(tiny_params, source=f"path:{folder}"))


def test_full_checkpoint_of_another_shape(tiny_params: Params, workplace: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=4,
        num_attention_heads=2, num_key_value_heads=2, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(workplace / "other")
    text = refused(given(tiny_params, source=f"path:{workplace / 'other'}"))
    assert "(16, 4)" in text
    assert "(32, 4)" in text


def test_device_and_threads_are_those_of_the_params(
    tiny_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the machine's: the number of threads decides the last bits."""
    set_to: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no CUDA device"):
        setup_torch(tiny_params.run.model_copy(update={"device": "cuda"}))
    auto = tiny_params.run.model_copy(update={"device": "auto", "threads": 7})
    assert (setup_torch(auto).type, set_to[-1]) == ("cpu", 7)
