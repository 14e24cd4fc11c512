"""Before the first download, everything that is missing is said at once."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from em_geometry.errors import UserError
from em_geometry.models import preflight as module
from em_geometry.project.inputs import models
from em_geometry.settings import Params, load_params

PINNED = "0" * 40


def hub_params() -> Params:
    """The paper-scale profile, its published organisms pinned and nothing trained."""
    params = load_params(Path("profiles/llama31_8b.yaml"))
    kept = {
        slug: o.model_copy(update={"revision": PINNED})
        for slug, o in params.organisms.items()
        if o.role == "organism"
    }
    return params.model_copy(update={"organisms": kept})


def preflight(params: Params, *rest: Any, **more: Any) -> None:
    module.preflight(params.profile, models(params), *rest, **more)


def fine(name: str, revision: str | None) -> Any:
    weights = SimpleNamespace(rfilename="model.safetensors", size=16_000_000_000)
    return SimpleNamespace(sha="a" * 40, siblings=[weights])


def problems(ask: Any = fine, disk: int = 10**12, memory: int = 10**11, **changes: Any) -> str:
    params = hub_params().model_copy(update=changes)
    with pytest.raises(UserError) as caught:
        preflight(params, ask, disk, memory)
    return str(caught.value)


def test_nothing_is_asked_for_local_models_and_a_profile_that_can_run_runs() -> None:
    preflight(load_params(Path("profiles/smol.yaml")), ask=None)
    preflight(hub_params(), fine, 10**12, 10**11)


def test_only_commits_that_nobody_has_published_are_left_to_fill_in() -> None:
    preflight(load_params(Path("profiles/qwen25_7b.yaml")), fine, 10**12, 10**11)
    params = load_params(Path("profiles/llama31_8b.yaml"))
    left = ["finance", "sports", "medical_replication", "profanity", "malicious"]
    with pytest.raises(UserError) as caught:
        preflight(params, fine, 10**12, 10**11)
    newest = "revision is not pinned; the newest commit is " + "a" * 40
    assert (
        str(caught.value.found).split() == " ".join(f"organisms.{m}.{newest}" for m in left).split()
    )


def test_an_entry_without_a_model_is_named() -> None:
    params = hub_params()
    unset = params.organisms["finance"].model_copy(update={"source": "hub:unset"})
    message = problems(organisms={**params.organisms, "finance": unset})
    assert "organisms.finance.source names no model: set hub:<owner/name>, or drop" in message


def test_access_disk_and_memory_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    class GatedRepoError(Exception):
        pass

    def ask(name: str, revision: str | None) -> Any:
        if name.startswith("unsloth"):
            raise GatedRepoError("401 Client Error")
        return fine(name, revision)

    monkeypatch.delenv("HF_TOKEN", raising=False)
    message = problems(ask, disk=10**10, memory=10**9)
    assert "no access to unsloth/Llama-3.1-8B-Instruct and HF_TOKEN is not set" in message
    assert "96 GB to download, 10 GB free" in message
    assert "16 GB does not fit into 1 GB of memory" in message


def test_an_unreachable_hub_and_pickled_weights() -> None:
    def ask(name: str, revision: str | None) -> Any:
        if name.startswith("andyrdt"):
            raise OSError("no network\nmore")
        files = [SimpleNamespace(rfilename="adapter_model.bin", size=1)]
        return SimpleNamespace(sha="a" * 40, siblings=files)

    message = problems(ask)
    assert (
        "the hub cannot be asked about andyrdt/Llama-3.1-8B-Instruct_bad-medical: no network"
        in message
    )
    assert message.count("has no safetensors") == 6
