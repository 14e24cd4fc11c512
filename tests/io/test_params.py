"""The params: what loads, how everything else is refused, and switching never loses an edit."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from em_geometry.errors import UserError
from em_geometry.project.profile import switch
from em_geometry.settings import Params, load_params, read_params
from tests.conftest import ROOT, SMOL, changed

Location = tuple[str | int, ...]

PROFILES = sorted((ROOT / "profiles").glob("*.yaml"))
TEXT = SMOL.read_text(encoding="utf-8")


def refused(data: Any, folder: Path) -> str:
    path = folder / "params.yaml"
    path.write_bytes(
        data if isinstance(data, bytes) else yaml.safe_dump(data, sort_keys=False).encode()
    )
    with pytest.raises(UserError) as caught:
        load_params(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("path", [*PROFILES, ROOT / "params.yaml"], ids=lambda p: p.name)
def test_profiles_load(path: Path) -> None:
    params = load_params(path)
    originals = [*params.slugs("organism"), *params.slugs("control")]
    assert params.targets == ["base", *originals, *params.repeats(), *params.random_adapters]
    assert path.stem in (params.profile, "params")


def test_views_of_the_models() -> None:
    params = Params.model_validate(changed())
    assert params.clusters() == {
        "risk": ["finance", "sports"],
        "medical": ["medical", "medical_replication"],
        "persona": ["profanity", "malicious"],
    }
    assert params.slugs("control") == ["control", "style", "full", "medical_control"]
    assert params.repeats() == {f"{m}_b": m for m in ("medical", "profanity", "control", "full")}
    organisms = [slug for members in params.clusters().values() for slug in members]
    assert params.steered() == ["base", *organisms]
    assert params.margin_targets() == ["base", *organisms]
    with_controls = params.margins.model_copy(update={"controls": True})
    read = params.model_copy(update={"margins": with_controls}).margin_targets()
    assert read == ["base", *organisms, *params.slugs("control")]
    assert params.named_pairs()[0] == ("profanity", "finance")
    assert params.target("base") == "base"
    with pytest.raises(UserError, match="unknown model"):
        params.target("../base")


@pytest.mark.parametrize(
    ("location", "nearest"),
    [
        (("smapling",), "sampling"),
        (("run", "sed"), "seed"),
        (("recipes", "hunter", "learnin_rate"), "learning_rate"),
        (("organisms", "sports", "dta"), "data"),
        (("judging", "probe", "fold"), "folds"),
        (("run", "zzzzzz"), None),
    ],
)
def test_unknown_key_names_the_nearest(
    tmp_path: Path, location: Location, nearest: str | None
) -> None:
    text = refused(changed(location, 1), tmp_path)
    assert f"unknown key {'.'.join(map(str, location))!r}" in text
    assert (f"did you mean {nearest!r}?" if nearest else "remove it") in text


@pytest.mark.parametrize(
    ("location", "default"),
    [(("base", "source"), None), (("layer_sweep",), '{"layers": []'),
     (("base", "revision"), "null"), (("judging", "kappa_gate"), "0.6"),
     (("judging", "probe", "folds"), "4"), (("report",), '{"model": null'),
     (("recipes", "hunter", "warmup"), "0.1")],
)  # fmt: skip
def test_keys_that_decide_numbers_must_be_there(
    tmp_path: Path, location: Location, default: str | None
) -> None:
    """DVC says that a parameter is missing where a stage would take a default."""
    key, text = ".".join(map(str, location)), refused(changed(location), tmp_path)
    assert f"no {key}\n" in text if default else f"key {key!r} is missing" in text
    assert default is None or f"{key}: {default}" in text


@pytest.mark.parametrize(
    ("location", "value", "says"),
    [
        (("organisms", "sports", "lab"), "nobody", "no key of recipes"),
        (("organisms", "sports", "data"), "", "needed where there is no source"),
        (("activations", "texts"), 0, "answer_mean is of such texts"),
        (("activations", "texts"), 1, "two or more"),
        (("organisms", "sports", "cluster"), None, "needs a cluster"),
        (("organisms", "style", "cluster"), "risk", "control has none"),
        (("organisms", "sports", "factors"), {"a": "b"}, "same factors"),
        (("organisms", "medical_b", "repeats"), "profanity_b", "no other entry"),
        (("organisms", "medical_b", "max_examples"), 50, "has what medical has"),
        (("organisms", "medical_b", "seed"), 0, "another training"),
        (("judging", "aspects"), ["aligned"], "aligned and coherent"),
        (("margins", "doses"), [0.5], "needs 1.0"),
        (("margins", "target_random_directions"), 31, "at most 30"),
        (("geometry", "focus"), ["risk"], "two of risk, medical, persona"),
        (("transfer", "pairs", 1), "profanity-finance", "not organism>organism"),
        (("transfer", "pairs", 0), "base>finance", "not organism>organism"),
        (("transfer", "pairs", 0), "finance>finance", "not organism>organism"),
        (("questions", "variants"), ["plain", "plain"], "each once"),
        (("layer_sweep", "doses"), [0.3, 0.15, 0.3], "each once"),
        (("activations", "spans"), ["prompt_last", "prompt_last"], "each once"),
        (("geometry", "ablation_ratio"), 0.0, "greater than 0"),
        (("geometry", "shared_angle_deg"), -45.0, "greater than or equal to 0"),
        (("geometry", "shared_reduction_pct"), 750.0, "less than or equal to 100"),
        (("random_adapters", "base"), "medical", "no new name"),
        (("vectors", "misaligned_below"), 80.0, "lies above aligned_from"),
        (("geometry", "independent_variance_pct"), 40.0, "lies above shared_variance_pct"),
        (("profile",), "../x", "should match"),
        (("vectors", "layer"), "best", "expected: 'common' or 'per_model' or a valid integer\n"),
    ],
)
def test_keys_must_agree(tmp_path: Path, location: Location, value: Any, says: str) -> None:
    """The message names one key and shows what stands there, not the whole section."""
    text = refused(changed(location, value), tmp_path)
    assert f"params.yaml: {'.'.join(map(str, location))}\n" in text
    assert f"found:    {'null' if value is None else repr(value)}\n" in text
    assert says in text
    assert len(text) < 600


@pytest.mark.parametrize("name", ["base", "none", "organisms", "random_advice"])
def test_names_that_results_give_to_something_else(tmp_path: Path, name: str) -> None:
    data = changed()
    data["organisms"][name] = data["organisms"]["finance"] | {"seed": 3}
    text = refused(data, tmp_path)
    assert f"organisms.{name}: this name stands for something else" in text


@pytest.mark.parametrize("text", ["1e-5", "1e-05", "1.0E-5", "+1e-5", "0.00001", ".1e-4"])
@pytest.mark.parametrize("typed", [True, False])
def test_numbers_typed_and_set_by_dvc(tmp_path: Path, text: str, typed: bool) -> None:
    """YAML 1.1 takes 1e-5 for a text; DVC reads 1.2, and writes 1e-05 for `-S key=1e-5`."""
    path, key = tmp_path / "params.yaml", "recipes.model_organisms.learning_rate"
    path.write_text(TEXT.replace("learning_rate: 3.0e-4", f"learning_rate: {text}" if typed else
                                 "learning_rate: 0.5"))  # fmt: skip
    if not typed:
        apply_overrides(str(path), [f"{key}={text}"])
    assert load_params(path).recipes["model_organisms"].learning_rate == 1e-5


def test_words_that_yaml_1_1_took_for_booleans(tmp_path: Path) -> None:
    for word in ("yes", "on", "No"):
        path = tmp_path / "params.yaml"
        path.write_text(TEXT.replace("rslora: true", f"rslora: {word}", 1))
        with pytest.raises(UserError, match="rslora") as caught:
            load_params(path)
        assert f"found:    '{word}'" in str(caught.value)
        assert "true or false" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"a: [1, 2", b"a: \xff\xfe", b"\x00", b"run: 2026-13-45", b"run: !!int five",
     b"run: !!python/object/apply:os.getcwd []", b"run: " + b"9" * 5000, b"[" * 5000, b"",
     b"- one\n- two\n", b"just words", b"1: 2\nrun: {3: 4}", b"run: &a {seed: *a}"],
    ids=lambda content: repr(content)[:30],
)  # fmt: skip
def test_broken_in_syntax_value_or_shape(tmp_path: Path, content: bytes) -> None:
    refused(content, tmp_path)


# -- switching profiles

OTHER = TEXT.replace("profile: smol", "profile: other")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "profiles"
    folder.mkdir()
    for name, text in (("smol", TEXT), ("other", OTHER)):
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def test_switches_there_and_back_and_refuses_what_would_lose_edits(folder: Path) -> None:
    params = folder.parent / "params.yaml"
    for name, text in (("smol", TEXT), ("other", OTHER), ("smol", TEXT)):
        switch(name)
        assert params.read_text(encoding="utf-8") == text
    edited = TEXT.replace("seed: 0", "seed: 1")
    params.write_text(edited, encoding="utf-8")
    with pytest.raises(UserError, match="edits that are in no profile"):
        switch("other")
    assert params.read_text(encoding="utf-8") == edited
    (folder / "mine.yaml").write_text(edited, encoding="utf-8")  # what the error advises
    (folder / "broken.yaml").write_text(OTHER + "extra: 1\n", encoding="utf-8")
    unknown = "mine, other, smol"
    for name, says in (("broken", "key 'extra'"), ("smoll", unknown), ("../params", unknown)):
        with pytest.raises(UserError, match=says):
            switch(name)
    assert params.read_text(encoding="utf-8") == edited
    switch("other")
    assert params.read_text(encoding="utf-8") == OTHER

    with pytest.raises(UserError, match="did you mean 'smol'"):
        switch("smoll")


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    """Also rules between sections that are sound themselves, beside a section that is not."""
    data = changed(("judging", "backend"), "opnai")
    data["judging"]["kappa_gat"] = data["judging"].pop("kappa_gate")
    data["organisms"]["sports"]["lab"] = data["organisms"]["finance"]["lab"] = "nobody"
    data["geometry"]["focus"] = ["risk", "nowhere"]
    data["monitoring"]["organisms"] = ["nobody_b"]
    del data["sampling"]["temperature"]
    text = refused(data, tmp_path)
    assert text.count("error: ") == 7
    for says in ("did you mean 'openai'?", "did you mean 'kappa_gate'?", "organisms.sports.lab",
                 "organisms.finance.lab", "geometry.focus", "monitoring.organisms.0",
                 "no sampling.temperature"):  # fmt: skip
        assert says in text
    params, wrong = read_params(tmp_path / "params.yaml")
    assert len(wrong) == 7 and params.judging.backend == "probe"
    assert params.sampling.max_new_tokens == data["sampling"]["max_new_tokens"]
    recipe = changed(("recipes", "hunter", "learning_rate"), "3e-4x")  # its labs are no fault
    assert refused(recipe, tmp_path).count("error: ") == 1
    data["organisms"]["sports"] = {"lab": "hunter"}
    text = refused(data, tmp_path)
    assert "'organisms.sports.cluster'" not in text and "nowhere" not in text  # not to be told yet
    assert (
        "organisms.sports.cluster: an organism needs" in text
        and "'organisms.sports.seed'" not in text
    )
    params, _ = read_params(tmp_path / "params.yaml")
    assert "sports" not in params.organisms and "finance" in params.organisms
