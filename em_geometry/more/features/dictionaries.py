"""Reading sparse dictionaries in the layouts in which they are published, and writing one.

docs/method.md: features. Whatever a file calls its parts and however its input is centred or
scaled, all is folded into one shape, `Dictionary` of em_geometry/more/sparse.py.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from em_geometry.errors import UserError
from em_geometry.io.files import read_json, read_tensors, write_tensors
from em_geometry.models.folder import listed, some
from em_geometry.more.features.sparse import Dictionary

# Names of the parts: of sae_lens, of sparsify and dictionary_learning, of Llama Scope, of Goodfire.
# True: stored the other way round than here.
ENCODER = {"W_enc": True, "encoder.weight": False, "encoder_linear.weight": False}
DECODER = {"W_dec": False, "decoder.weight": True, "decoder_linear.weight": True}
BIAS = ("b_enc", "encoder.bias", "encoder_linear.bias")
CENTRE = ("b_dec", "decoder.bias", "decoder_linear.bias", "bias")
GATED = ("b_gate", "gate_bias", "r_mag")
SETTINGS = ("cfg.json", "config.json", "hyperparams.json")
KIND = ("architecture", "act_fn", "activation_fn_str", "activation_fn", "activation", "dict_class")
RELU, JUMP, TOP = ("", "relu", "standard"), ("jumprelu",), ("topk", "batchtopk")
BEFORE_ENCODING = ("apply_b_dec_to_input", "apply_decoder_bias_to_pre_encoder")
PLACE = re.compile(r"(?:blocks|layers)[._](\d+)(?:\.hook_(\w+))?")


def write_dictionary(path: Path, found: Dictionary, about: Mapping[str, str]) -> None:
    """Writes it in the layout of sae_lens, its settings among the metadata."""
    parts = {
        "W_enc": found.encoder.T, "b_enc": found.bias, "W_dec": found.decoder,
        "b_dec": found.centre, "threshold": found.threshold,
    }  # fmt: skip
    kind = {"architecture": "topk" if found.k else "jumprelu", "k": found.k, "block": found.block}
    tensors = {name: part.cpu().numpy() for name, part in parts.items()}
    write_tensors(path, tensors, {"dictionary": json.dumps(kind), **about})


def find_dictionary(place: Path) -> Path | None:
    """The safetensors file of a dictionary, itself or in a folder; None where a folder has none.

    Raises:
        UserError: nothing is there, or more than one such file.
    """
    if place.is_file():
        return place
    files = sorted(place.rglob("[!.]*.safetensors"))
    if not place.is_dir() or len(files) > 1:
        found = some(str(file.relative_to(place)) for file in files) or "nothing there"
        expected = "one safetensors file, or a folder with one or none"
        raise UserError("which dictionary?", where=place, found=found, expected=expected)
    if not files and (left := sorted([*place.rglob("*.pt"), *place.rglob("*.pth")])):
        hint = "safetensors.torch.save_file(torch.load(FILE, weights_only=True), OUT)"
        found = f"{listed(left[0].parent)}"
        what = "pickled dictionaries are not loaded"
        raise UserError(what, where=place, found=found, expected="safetensors", hint=hint)
    return files[0] if files else None


def given_dictionary(
    place: Path, width: int, block: int | None, otherwise: int
) -> tuple[Dictionary | None, int]:
    """The dictionary at a place, None where there is none, and the block at which it is taken.

    Args:
        width: of the model's residual stream.
        block: that is asked for; None = the dictionary's own, or where it says none, `otherwise`.
    """
    file = find_dictionary(place)
    given = read_dictionary(file, width, block) if file else None
    asked = (block, given.block if given else None, otherwise)
    return given, next(each for each in asked if each is not None)


def read_dictionary(path: Path, width: int, block: int | None = None) -> Dictionary:
    """A dictionary as published; settings from its metadata or a JSON file beside or above it.

    Args:
        width: of the model's residual stream.
        block: at whose output the run takes it; None = as its settings say.
    Raises:
        UserError: a part that is missing or does not fit, with its shapes; another block, another
            place than the residual stream, or a way to activate that is not known here.
    """
    tensors, about = read_tensors(path, "download it again")
    settings = _settings(path, about)
    own = _block(settings, path)
    if None not in (own, block) and own != block:
        what, expected = "this dictionary is of another block", f"block {block}"
        hint = "more.dictionary_block says at which block it is taken; null = its own"
        raise UserError(what, where=path, found=f"block {own}", expected=expected, hint=hint)
    decoder = _part(tensors, DECODER, path)
    latents, at = len(decoder), block if own is None else own
    encoder = _part(tensors, ENCODER, path)
    bias = tensors.get(next((n for n in BIAS if n in tensors), ""), np.zeros(latents))
    centre = tensors.get(next((n for n in CENTRE if n in tensors), ""), np.zeros(width))
    limit, k = _activation(tensors, settings, path)
    threshold = np.broadcast_to(limit, (latents,)) if limit.size == 1 else limit
    shapes = {
        "decoder": (decoder, (latents, width)), "encoder": (encoder, (latents, width)),
        "bias of the encoder": (bias, (latents,)), "bias of the decoder": (centre, (width,)),
        "threshold": (threshold, (latents,)),
    }  # fmt: skip
    for name, (part, shape) in shapes.items():
        if part.shape != shape or not np.isfinite(part).all():
            found = f"{name} [{', '.join(map(str, part.shape))}] as [latents, width]"
            found += "" if np.isfinite(part).all() else ", with values that are not finite"
            expected = f"[{', '.join(map(str, shape))}] (a model of width {width}, block {at})"
            what = "the dictionary does not fit"
            raise UserError(what, where=path, found=found, expected=expected)
    if _before(tensors, settings):
        bias = bias - encoder @ centre
    if settings.get("sparsity_include_decoder_norm"):
        threshold = threshold / np.maximum(np.linalg.norm(decoder, axis=1), 1e-12)
    scale = _scale(settings, width)
    parts = (encoder * scale, bias, decoder / scale, centre / scale, threshold)
    e, b, d, c, r = (torch.tensor(np.array(part), dtype=torch.float32) for part in parts)
    return Dictionary(e, b, d, c, r, k, own)


def _settings(path: Path, about: Mapping[str, str]) -> dict[str, Any]:
    folders = (path.parent, path.parent.parent)
    files = [folder / name for folder in folders for name in SETTINGS]
    beside = next((read_json(file, dict[str, Any]) for file in files if file.is_file()), {})
    trainer = beside.get("trainer")  # of dictionary_learning
    own = json.loads(about.get("dictionary", "{}"))
    return {**beside, **(trainer if isinstance(trainer, dict) else {}), **own}


def _part(tensors: Mapping[str, np.ndarray], names: Mapping[str, bool], path: Path) -> np.ndarray:
    """A matrix as [latents, width]."""
    for name, turned in names.items():
        if name in tensors:
            return tensors[name].T if turned else tensors[name]
    what, expected = "a matrix of the dictionary is missing", "one of " + ", ".join(names)
    raise UserError(what, where=path, found=some(tensors) or "no tensors", expected=expected)


def _before(tensors: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> bool:
    """Is the decoder's bias taken off a state before it is encoded?"""
    said = next((settings[key] for key in BEFORE_ENCODING if key in settings), None)
    if said is not None or "encoder.weight" not in tensors:
        return bool(said)
    # sparsify and dictionary_learning do, and do not say so; Llama Scope says that it does not
    return bool({"b_dec", "bias"} & {*tensors})


def _activation(
    tensors: Mapping[str, np.ndarray], settings: Mapping[str, Any], path: Path
) -> tuple[np.ndarray, int | None]:
    """Thresholds [latents] or [1], and how many of the highest count; None = all above them."""
    named = [str(settings[key]).lower() for key in KIND if isinstance(settings.get(key), str)]
    kinds = [re.sub("autoencoder|sae|[_-]", "", name) for name in named]
    kinds += ["gated"] if {*GATED} & {*tensors} else []
    if other := [kind for kind in kinds if kind not in (*RELU, *JUMP, *TOP)]:
        what, expected = "a dictionary of this kind is not known", "relu, jumprelu or topk"
        raise UserError(what, where=path, found=other[0], expected=expected)
    extra = settings.get("activation_fn_kwargs") or {}
    k = next((s[key] for s in (settings, extra) for key in ("k", "top_k") if s.get(key)), None)
    limit = tensors.get("threshold")
    if "log_jumprelu_threshold" in tensors:
        limit = np.exp(tensors["log_jumprelu_threshold"])
    if limit is None and settings.get("jump_relu_threshold") is not None:
        limit = np.array(float(settings["jump_relu_threshold"]))
    top = {*TOP} & {*kinds} or ("relu" not in kinds and k is not None and limit is None)
    jump = {*JUMP} & {*kinds} or ("batchtopk" in kinds and limit is not None)
    if (jump and limit is None) or (top and not jump and k is None):
        what = "a setting of the dictionary is missing"
        expected = "threshold, or jump_relu_threshold" if jump else "k"
        found = ", ".join(f"{key}: {settings[key]}" for key in KIND if key in settings)
        raise UserError(what, where=path, found=found, expected=expected)
    if limit is None or not (jump or top or not kinds):
        limit = np.zeros(1)
    return np.maximum(limit.reshape(-1), 0.0), int(k) if top and not jump and k else None


def _scale(settings: Mapping[str, Any], width: int) -> float:
    """Factor of a state before it is encoded, which a dictionary of the whole set's norm wants."""
    norm = settings.get("dataset_average_activation_norm")
    if settings.get("norm_activation") != "dataset-wise" or not isinstance(norm, dict):
        return 1.0
    return math.sqrt(width) / float(next(iter(norm.values())))


def _block(settings: Mapping[str, Any], path: Path) -> int | None:
    """The block at whose output a dictionary was made; None where nothing says so."""
    if isinstance(settings.get("block"), int):
        return int(settings["block"])
    keys = ("hook_point_in", "hook_name", "hook_point", "hookpoint", "submodule_name")
    told = [str(settings[key]) for key in keys if key in settings] or [path.parent.name]
    if (found := PLACE.search(told[0])) is None:
        layer = settings.get("hook_layer", settings.get("layer"))
        return layer if isinstance(layer, int) else None
    number, place = int(found[1]), found[2] or "resid_post"
    if place not in ("resid_post", "resid_pre"):
        what, expected = "not a dictionary of the residual stream", "hook_resid_post"
        raise UserError(what, where=path, found=told[0], expected=expected)
    return number - (place == "resid_pre")
