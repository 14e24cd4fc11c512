"""`em-geometry steer`: a prompt with and without a vector; the steered model can be saved."""

import math
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from em_geometry.activations.blocks import decoder_blocks
from em_geometry.errors import UserError
from em_geometry.hashing import stream_key
from em_geometry.models.chat import render
from em_geometry.models.load import Loaded
from em_geometry.project import paths
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.project.inputs import models
from em_geometry.settings import Params, load_params
from em_geometry.steering.answers import Row, answers_of
from em_geometry.steering.conditions import (
    Intervention,
    check_vector,
    holds_selected,
    read_selected,
)
from em_geometry.steering.formats import SUFFIXES, bake, biases, read_vector, write_vectors


def intervention(
    vector: str, dose: float, layer: int | None, name: str | None = None, blocks: int | None = None
) -> Intervention:
    """A chosen vector at a relative dose, or the vector of another's file times `dose`.

    Args:
        vector: slug, or a file; the layer sweep's file too.
        layer: its block (or row, in a file that has rows); None is the vector's own.
        name: of the tensor, in a file of several.
        blocks: of the model, where it is loaded; then a row is taken for its block.
    """
    file = Path(vector).expanduser() if vector.lower().endswith(SUFFIXES) else None
    if file is not None and not holds_selected(file):
        return read_vector(file, layer, name).acting(dose, file, blocks)
    known = read_selected(file or paths.SELECTED)
    slug = vector if file is None else name
    if slug not in known or (file is None and name is not None):
        raise UserError(
            "no such vector",
            where="command line",
            found=vector if name is None else f"{vector} --name {name}",
            expected=", ".join(known) + f", or a file ({', '.join(SUFFIXES)})" * (file is None),
            hint="choose of a file by --name",
        )
    chosen = known[slug]
    norm = chosen.coefficient / chosen.dose  # mean residual norm of the base at its own block
    return Intervention(chosen.vector, chosen.layer if layer is None else layer, dose * norm)


def answers(
    params: Params, loaded: Loaded, how: Intervention, prompt: str, samples: int
) -> list[tuple[str, str]]:
    """(unsteered, steered) answers to a prompt, each pair from the same random stream."""
    ids = render(loaded.tokenizer, prompt, params.base.system_prompt).ids
    keys = [stream_key(params.run.seed, "show", prompt, i) for i in range(samples)]
    batch = [Row(ids, key, act) for act in (None, how) for key in keys]
    told = answers_of(loaded, batch, params.sampling, params.steering.positions)
    texts = [str(text) for text, *_ in told]
    return list(zip(texts[:samples], texts[samples:], strict=True))


def save(path: Path, loaded: Loaded, rows: list[Intervention], positions: str) -> None:
    """A vector file, or else a folder with the baked model."""
    if path.suffix.lower() in SUFFIXES:
        write_vectors(path, rows, positions)
    else:
        bake(loaded.model, biases(loaded.model, rows, positions)).save_pretrained(path)
        loaded.tokenizer.save_pretrained(path)


def cli(
    model: Annotated[str, typer.Argument(help="Slug of the target.")],
    vector: Annotated[str, typer.Argument(help="Slug of a chosen vector, or a vector file.")],
    dose: Annotated[float, typer.Argument(help="Share of the residual norm; factor of a file's.")],
    prompt: Annotated[str, typer.Argument(help="What the model is asked.")],
    layer: Annotated[int | None, typer.Option(
        min=0, help="Block, or row in a file of rows; default: the vector's own.")] = None,
    name: Annotated[str | None, typer.Option(help="Tensor, in a file of several.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Answers of each kind.")] = 1,
    tokens: Annotated[int, typer.Option(min=1, help="New tokens at most.")] = 60,
    out: Annotated[Path | None, typer.Option(
        help="Also save: .safetensors, .pt (lm-eval), .gguf (repeng, llama.cpp), "
        "or a folder for the baked model.")] = None,
    params: ParamsFile = PARAMS,
) -> None:  # fmt: skip
    """Answer a prompt with and without a steering vector, side by side."""
    if not math.isfinite(dose):
        raise UserError("no such dose", where="command line", found=dose, expected="a number")
    chosen = partial(intervention, vector, dose, layer, name)
    chosen()  # what is wrong with a file is said before a model is loaded
    active = load_params(params)
    sampling = active.sampling.model_copy(update={"max_new_tokens": tokens})
    active = active.model_copy(update={"sampling": sampling})
    loaded = models(active).load(active.target(model))
    how = chosen(len(decoder_blocks(loaded.model)))
    check_vector(how.vector, loaded.model.config.get_text_config().hidden_size, vector)
    print(
        f"{vector}, times {how.coefficient:.3g}, added after block {how.layer} (the first is 0)\n"
    )
    for plain, steered in answers(active, loaded, how, prompt, samples):
        print(f"unsteered: {plain}\n  steered: {steered}\n")
    if out is not None:
        save(out, loaded, [how], active.steering.positions)
        print(f"saved to {out}")
