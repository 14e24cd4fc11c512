"""A model's folder: an adapter or a checkpoint, whole and in full precision.

Faults are found from names, JSON files and headers alone, before a library reads the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from em_geometry.errors import UserError, explained
from em_geometry.io.files import checked, read_json, there

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FULL = {"F64", "F32", "F16", "BF16"}  # dtypes of safetensors that weights can have
QUANTISED = ("quantization_config", "compression_config", "quantization")  # keys of config.json
# Where others write the same: AutoGPTQ, AutoAWQ, ModelOpt, and exports of configs.
QUANTISERS = (
    "quantize_config.json", "quant_config.json", "hf_quant_config.json", "quantization_config.json",
)  # fmt: skip
DEQUANTISE = "take the checkpoint it was made from, or dequantise it: model.dequantize(), then save"
PICKLES = (
    "pickles can run code, so none is loaded; where you trust this one, "
    "from_pretrained(<folder>).save_pretrained(<new folder>) in transformers writes safetensors"
)
GGUF = (
    "from_pretrained(<folder>, gguf_file=<name>) in transformers reads it; save its state_dict() "
    "in a new model of its config as safetensors, with the tokenizer"
)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, beside which the base's config may lie.

    Raises:
        UserError: it holds a full checkpoint too.
    """
    adapter = (folder / WEIGHTS).is_file() or (folder / CONFIG).is_file()
    if adapter and (full := some(p.name for p in folder.glob("model*.safetensors"))):
        raise UserError(
            "a folder with an adapter and a full checkpoint: which is the model?",
            where=str(folder),
            found=f"adapter files and {full}",
            expected="one of them",
            hint="move the other one into a folder of its own",
        )
    return adapter


def check_files(folder: Path) -> None:
    """Raises UserError where a folder's files are Git LFS pointers instead of the files."""
    for path in sorted(p for p in folder.glob("*") if p.is_file()):
        there(path)


def check_checkpoint(folder: Path) -> None:
    """Raises UserError unless a folder holds a whole checkpoint in full precision."""
    check_files(folder)
    config = folder / "config.json"
    if config.is_file():
        refuse_quantised(read_json(config, dict[str, Any]), config)
    if (ends := folder / "generation_config.json").is_file():
        read_json(ends, dict[str, Any])  # transformers passes over a broken one, and its ends
    for path in (folder / name for name in QUANTISERS):
        if path.is_file():
            refuse_quantised({QUANTISED[0]: path.name}, path)
    weights = weights_of(folder)
    if not config.is_file():
        what, expected = "no config.json in this model folder", "that of the architecture"
        raise UserError(what, where=folder, found=listed(folder), expected=expected)
    _check_parts(folder, {path.name: _tensors(path) for path in weights})


def _check_parts(folder: Path, there: Mapping[str, set[str]]) -> None:
    """Raises UserError unless weights are one file, or all shards that the index names."""
    index, shards = folder / INDEX, dict[str, str]()
    if index.is_file():
        given = read_json(index, dict[str, Any]).get("weight_map")
        shards = checked(dict[str, str], given, str(index))
    if SINGLE in there:
        parts = {n for n in there if n.startswith("model-") or n in shards.values()} - {SINGLE}
        if parts:
            what, found = "a model as one file and as shards", f"{SINGLE}, and {some(parts)}"
            hint = "move those of the other model, and its index, out of the folder"
            raise UserError(what, where=folder, found=found, expected="one of them", hint=hint)
        return
    wrong = {
        f"{shard}: {name}" for name, shard in shards.items() if name not in there.get(shard, ())
    }
    if wrong:
        raise UserError(
            "tensors are not in the shards that the index names",
            where=index,
            found=f"no {some(wrong)}; there are {some(there)}",
            expected="every shard, whole",
            hint="copy or download it again",
        )


def _tensors(path: Path) -> set[str]:
    """Names of the tensors in a file of weights; UserError where one is quantised."""
    what, hint = "the model cannot be loaded", "copy or download it again"
    with explained(what, path, "a whole safetensors file", hint), safe_open(path, "numpy") as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        empty = {name for name, part in parts.items() if 0 in part.get_shape()}
        kinds = {name: part.get_dtype() for name, part in parts.items()}
    if empty:  # as DeepSpeed leaves them where it keeps weights in parts (ZeRO-3)
        raise UserError(
            "tensors of this checkpoint are empty",
            where=path,
            found=some(empty),
            expected="whole weights",
            hint="zero_to_fp32.py, which DeepSpeed puts beside its checkpoints, makes them",
        )
    low = {n for n, kind in kinds.items() if kind not in FULL and "weight" in n.rpartition(".")[2]}
    if low:
        refuse_quantised({QUANTISED[0]: f"{kinds[min(low)]} in {some(low)}"}, path)
    return set(kinds)


def refuse_quantised(settings: Mapping[str, Any], where: object) -> None:
    """Raises UserError where a model's configuration says that its weights are quantised."""
    nested = (v for v in settings.values() if isinstance(v, Mapping))
    for part in (settings, *nested):
        for key in QUANTISED:
            if part.get(key):
                raise UserError(
                    "quantised weights cannot be measured or trained",
                    where=where,
                    found=f"{key}: {part[key]}",
                    expected="weights in float32, bfloat16 or float16",
                    hint=DEQUANTISE,
                )


def weights_of(folder: Path) -> list[Path]:
    """The safetensors files of a folder; UserError says what to do where there are none."""
    if weights := sorted(p for p in folder.glob("[!.]*.safetensors") if p.is_file()):
        return weights
    kinds = {path.suffix for path in folder.glob("*")}
    raise UserError(
        "no safetensors weights in this model folder",
        where=str(folder),
        found=listed(folder),
        expected="*.safetensors, config.json and a tokenizer",
        hint=GGUF if ".gguf" in kinds else PICKLES if kinds & {".bin", ".pt", ".pth"} else None,
    )


def listed(folder: Path) -> str:
    """What is in a folder, for a message."""
    return ", ".join(sorted(p.name for p in folder.glob("*"))) or "nothing"


def some(names: Iterable[str]) -> str:
    """Names for a message, at most three of them."""
    ordered = sorted(names)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return ", ".join(ordered[:3]) + more
