"""The params: what loads, and how everything else is refused."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from em_geometry.errors import UserError
from em_geometry.settings.params import Params, load_params

ROOT = Path(__file__).resolve().parents[2]
PROFILES = sorted((ROOT / "profiles").glob("*.yaml"))
SMOL = yaml.safe_load((ROOT / "profiles" / "smol.yaml").read_text(encoding="utf-8"))
JUNK = (None, True, -1, 0, 2**70, 0.5, -1e300, math.nan, math.inf, "", "x" * 999, [], [None], {})

Location = tuple[str | int, ...]


def leaves(value: Any, location: Location = ()) -> Iterator[Location]:
    """Locations of all values that are no dictionary, and of the elements of lists."""
    if location and not isinstance(value, dict):
        yield location
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from leaves(inner, (*location, key))


def changed(location: Location, value: Any) -> dict[str, Any]:
    """The small profile with one value replaced."""
    data = copy.deepcopy(SMOL)
    place: Any = data
    for part in location[:-1]:
        place = place[part]
    place[location[-1]] = value
    return data


def load(data: Any, folder: Path) -> Params:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return load_params(path)


def refused(data: Any, folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(data, folder)
    return str(caught.value)


@pytest.mark.parametrize("path", [*PROFILES, ROOT / "params.yaml"], ids=lambda p: p.name)
def test_profiles_load(path: Path) -> None:
    params = load_params(path)
    assert params.targets == ["base", *params.slugs("organism"), *params.slugs("control")]


def test_every_profile_is_named_after_its_file() -> None:
    for path in PROFILES:
        assert load_params(path).profile == path.stem


def test_views_of_the_models(tmp_path: Path) -> None:
    params = load(SMOL, tmp_path)
    assert params.clusters() == {
        "risk": ["finance", "sports"],
        "medical": ["medical", "medical_replication"],
        "persona": ["profanity", "malicious"],
    }
    assert params.slugs("control") == ["control", "style", "full"]
    organisms = [slug for members in params.clusters().values() for slug in members]
    assert params.steered() == ["base", *organisms]
    with_controls = params.steering.model_copy(update={"controls": True})
    assert params.model_copy(update={"steering": with_controls}).steered() == params.targets
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
    ],
)
def test_unknown_key_names_the_nearest(tmp_path: Path, location: Location, nearest: str) -> None:
    text = refused(changed(location, 1), tmp_path)
    assert f"unknown key {'.'.join(map(str, location))!r}" in text
    assert f"did you mean {nearest!r}?" in text
    assert str(tmp_path / "params.yaml") in text


def test_unknown_key_like_no_other(tmp_path: Path) -> None:
    assert "remove it" in refused(changed(("run", "zzzzzz"), 1), tmp_path)


@pytest.mark.parametrize(
    ("location", "value"),
    [
        (("run", "seed"), "0"),
        (("run", "seed"), -1),
        (("run", "threads"), 1.5),
        (("run", "threads"), 0),
        (("run", "device"), "tpu"),
        (("sampling", "temperature"), math.nan),
        (("sampling", "temperature"), 0.0),
        (("sampling", "max_new_tokens"), True),
        (("recipes", "hunter", "learning_rate"), math.inf),
        (("recipes", "hunter", "rslora"), "no"),
        (("judging", "probe", "folds"), 1),
        (("judging", "probe", "regularisation", 0), 0.0),
        (("vectors", "layer"), "best"),
        (("steering", "doses"), 1.0),
        (("organisms", "finance", "data"), None),
        (("organisms", "finance", "lab"), "../lab"),
        (("report", "wide_interval"), 101.0),
    ],
)
def test_bad_value_names_its_key(tmp_path: Path, location: Location, value: Any) -> None:
    text = refused(changed(location, value), tmp_path)
    assert ".".join(map(str, location)) in text
    assert "unknown key" not in text


def test_missing_section_is_named(tmp_path: Path) -> None:
    data = copy.deepcopy(SMOL)
    del data["layer_sweep"]
    assert "layer_sweep" in refused(data, tmp_path)


@pytest.mark.parametrize(
    ("location", "value", "says"),
    [
        (("targets",), ["base", "finance"], "targets must be"),
        (("targets", 0), "finance", "targets must be"),
        (("organisms", "sports", "lab"), "nobody", "no key of recipes"),
        (("organisms", "sports", "cluster"), None, "needs a cluster"),
        (("organisms", "style", "cluster"), "risk", "needs a cluster"),
        (("transfer", "pairs", 0), "profanity-finance", "not organism>target"),
        (("transfer", "pairs", 0), "base>finance", "not organism>target"),
        (("transfer", "pairs", 0), "finance>nobody", "not organism>target"),
    ],
)
def test_sections_must_agree(tmp_path: Path, location: Location, value: Any, says: str) -> None:
    assert says in refused(changed(location, value), tmp_path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no params file"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    "content",
    [  # broken in the syntax, in a value, or in the shape
        b"a: [1, 2",
        b"a: \xff\xfe",
        b"\x00",
        b"run: 2026-13-45",
        b"run: !!int five",
        b"run: !!python/object/apply:os.getcwd []",
        b"run: " + b"9" * 5000,
        b"[" * 5000,
        b"",
        b"- one\n- two\n",
        b"just words",
        b"1: 2\nrun: {3: 4}",
        b"run: &a {seed: *a}",
    ],
    ids=lambda content: repr(content)[:30],
)
def test_not_our_yaml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_params(path)
    assert str(path) in str(caught.value)


def test_any_leaf_of_junk_loads_or_is_refused() -> None:
    """Every leaf of the profile with every piece of junk; YAML is left out for speed."""
    path = ROOT / "profiles" / "smol.yaml"
    refusals = 0
    for location in leaves(SMOL):
        for junk in JUNK:
            with patch("yaml.safe_load", lambda _: changed(location, junk)):  # noqa: B023
                try:
                    load_params(path)
                except UserError as error:
                    refusals += 1
                    assert str(path) in str(error)
    assert refusals > 1000


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(list(leaves(SMOL))),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    ),
)
def test_fuzzed_file_loads_or_is_refused(tmp_path: Path, location: Location, value: Any) -> None:
    try:
        load(changed(location, value), tmp_path)
    except UserError as error:
        assert str(tmp_path) in str(error)
