"""A repository's folder in miniature, whole and good, for tests to damage."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from em_geometry.io.files import write_tensors
from em_geometry.models import train
from em_geometry.project.inputs import models
from em_geometry.settings import Params
from stages import base_model
from tests.conftest import ROOT, changed, on_tiny

MODEL = "the model größe"  # a folder with a space and a letter beyond ASCII
KEPT = ("finance", "sports", "full")
EARLIER = (  # outputs of an earlier run, which no refusal may touch
    "data/activations/base.safetensors",
    "data/activations/finance.safetensors",
    "data/baseline/responses/base.parquet",
    "data/judge_model/probes.json",
    "data/vectors/vectors.safetensors",
    "metrics/training/finance.json",
    "metrics/judge.json",
    "metrics/published.json",
    "metrics/claims.json",
)


def small(smol: dict[str, Any]) -> dict[str, Any]:
    """The small profile cut down to three organisms on the tiny model."""
    on_tiny(smol, MODEL, KEPT, max_examples=12, root=Path())
    for recipe in smol["recipes"].values():
        recipe["epochs"] = 1
    smol["transfer"] |= {"pairs": ["finance>sports"]}
    smol["prompts"]["limit"] = 6
    smol["questions"]["limit"] = 2
    smol["sampling"] |= {"max_new_tokens": 6, "temperature": 1.0}
    smol["baseline"]["samples"] = 2
    smol["judging"]["probe"] |= {"regularisation": [0.01], "folds": 2}
    smol["layer_sweep"] |= {"layers": [1, 2], "doses": [0.3], "random_directions": 2}
    smol["layer_sweep"]["max_damage"] = 50.0
    smol["margins"] |= {"random_directions": 3, "target_random_directions": 1, "doses": [1.0]}
    smol["margins"] |= {"base_pairs": 4, "target_pairs": 2, "other_pairs": 2}
    smol["geometry"] |= {"replicates": 50, "focus": []}
    smol["steering"] |= {"samples": 1, "control_samples": 1}
    return smol


def build(root: Path, checkpoint: Path) -> Path:
    """Inputs, the tiny model, untrained adapters, and earlier outputs."""
    params = small(changed())
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    shutil.copytree(checkpoint, root / MODEL)
    inputs = "prompts questions organisms judge paper papers margins"
    for name in (f"data/{one}" for one in inputs.split()):
        shutil.copytree(ROOT / name, root / name)
    shutil.copytree(ROOT / "profiles", root / "profiles")
    for path in root.glob("data/judge/*.jsonl"):
        path.write_text("".join(path.read_text(encoding="utf-8").splitlines(True)[::5]), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        loaded = Params.model_validate(params)
        base_model.main(loaded)
        recipe = loaded.recipes["model_organisms"]
        adapted = train.with_adapter(models(loaded).base(), recipe, 5)
        for slug in KEPT:
            train.save(adapted, Path("data/adapters", slug), models(loaded).record()["sha256"])
        for i, name in enumerate("abc"):
            vector = np.random.default_rng(i).standard_normal(32).astype(np.float32)
            write_tensors(Path(f"my vectors/{name}.safetensors"), {"layers.1": vector}, {})
        names = list("abc")
        matrix = np.eye(3).tolist()
        Path("cosines.json").write_text(json.dumps({"names": names, "matrix": matrix}))
        Path("cosines.csv").write_text("a,b,c\n1,0.5,0\n0.5,1,0\n0,0,1\n")
        for earlier in EARLIER:
            Path(earlier).parent.mkdir(parents=True, exist_ok=True)
            Path(earlier).write_bytes(b'{"an": "earlier run"}\n')
    return root


def copied(whole: Path, folder: Path) -> Path:
    """A copy of the folder; the record of its base points into it."""
    shutil.copytree(whole, folder)
    record = folder / "data/models/base/record.json"
    known = json.loads(record.read_text(encoding="utf-8"))
    record.write_text(json.dumps(known | {"path": str(folder / MODEL)}), encoding="utf-8")
    return folder
