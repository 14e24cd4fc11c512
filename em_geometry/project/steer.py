"""`em-geometry steer`: a prompt with a vector, without, and with a random one of its length."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from em_geometry.activations.blocks import check_blocks, decoder_blocks
from em_geometry.activations.capture import capture
from em_geometry.activations.prompts import Text
from em_geometry.errors import UserError
from em_geometry.hashing import stream_key
from em_geometry.io.files import check_vector
from em_geometry.models.chat import end_of_turn, render
from em_geometry.models.load import Loaded
from em_geometry.project import paths
from em_geometry.project.command import PARAMS, PLAIN, ParamsFile, command
from em_geometry.project.inputs import models
from em_geometry.settings import Params, load_params
from em_geometry.steering.answers import Answer, Row, sample
from em_geometry.steering.conditions import (
    Intervention,
    Positions,
    holds_selected,
    random_direction,
    read_selected,
)
from em_geometry.steering.formats import SUFFIXES, Held, read_vector
from em_geometry.steering.hooks import steering_rows

GREEDY = 1e-6  # a temperature so low that the likeliest token is drawn
HOW = "mean over the tokens of prompt and unsteered greedy answer"
Ways = Mapping[str, Intervention | None]
cli = typer.Typer(**PLAIN)


@dataclass(frozen=True)
class Chosen:
    """A vector that the user names.

    Attributes:
        held: it, with the length at which it was chosen or saved.
        residual: mean residual norm of the base at its block, where that was recorded with it.
    """

    held: Held
    residual: float | None = None

    def acting(self, dose: float, residual: float, block: int) -> Intervention:
        """What a dose of it does: adds to a block a vector as long as this share of the norm."""
        length = float(np.linalg.norm(self.held.vector.astype(np.float64)))  # squares of 1e20 too
        unit = self.held.vector / math.copysign(length, self.held.coefficient)
        return Intervention(unit.astype(np.float32), block, dose * residual)


def check_dose(dose: float) -> None:
    """Raises UserError where a dose is no finite number."""
    if not math.isfinite(dose):
        raise UserError("no such dose", where="command line", found=dose, expected="a number")


def chosen(vector: str, layer: int | None = None, name: str | None = None) -> Chosen:
    """A vector by its slug, or of a file: anybody's, the layer sweep's, the table of all vectors.

    Args:
        layer: its block (or row, in a file that has rows); None is the vector's own.
        name: of the tensor, in a file of several.
    """
    file = Path(vector).expanduser() if vector.lower().endswith(SUFFIXES) else None
    if file is not None and not holds_selected(file):
        return Chosen(read_vector(file, layer, name))
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
    own = known[slug]
    block = own.layer if layer is None else layer
    held = Held(slug, own.vector, own.coefficient or 1.0, block)  # 0 where nothing chose a dose
    there = own.dose and block == own.layer
    return Chosen(held, own.coefficient / own.dose if there else None)


def answers(
    params: Params, loaded: Loaded, ways: Ways, prompt: str, samples: int
) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Answers to a prompt under each way, and how far each moves the next token.

    Args:
        ways: by name; the first steers nothing.
    Returns:
        by way, one greedy answer and `samples` sampled ones, of the same random streams; and
        KL(unsteered || steered) of the next token in nats, as `HOW` says.
    """
    ids = render(loaded.tokenizer, prompt, params.base.system_prompt).ids
    end = end_of_turn(loaded.tokenizer, loaded.model.config, loaded.model.generation_config)
    positions = params.steering.positions
    keys = [stream_key(params.run.seed, "show", prompt, i) for i in range(samples)]
    greedy = params.sampling.model_copy(update={"temperature": GREEDY})
    found: dict[str, list[Answer]] = {way: [] for way in ways}
    for sampling, streams in ((greedy, keys[:1]), (params.sampling, keys)):
        rows = [Row(ids, key, how) for how in ways.values() for key in streams]
        told = sample(loaded.model, rows, sampling, end, positions)
        for i, way in enumerate(ways):
            found[way] += told[i * len(streams) : (i + 1) * len(streams)]
    texts = {
        way: [loaded.tokenizer.decode(a.ids, skip_special_tokens=True).strip() for a in each]
        for way, each in found.items()
    }
    plain = next(iter(found.values()))[0].ids
    return texts, dict(zip(ways, moved(loaded, ids, plain, ways, positions), strict=True))


def moved(
    loaded: Loaded, ids: tuple[int, ...], answer: tuple[int, ...], ways: Ways, positions: Positions
) -> list[float]:
    """KL(first || way) of the next token, of every way, in nats; mean over prompt and answer."""
    tokens = torch.tensor([[*ids, *answer]] * len(ways), device=loaded.model.device)
    within = torch.arange(tokens.shape[1], device=tokens.device) < len(ids)  # the prompt
    mask = {"prompt": within, "response": ~within}.get(positions, torch.ones_like(within))
    with torch.no_grad(), steering_rows(loaded.model, [*ways.values()]) as steering:
        steering.mask = mask.expand_as(tokens)
        logs = loaded.model(input_ids=tokens).logits.float().log_softmax(-1)
    kl: list[float] = (logs[:1].exp() * (logs[:1] - logs)).sum(-1).mean(-1).tolist()
    return kl


@cli.command(context_settings={"ignore_unknown_options": True})  # -0.3 is a dose
@command
def steer(
    model: Annotated[str, typer.Argument(help="Slug of the target.")],
    vector: Annotated[str, typer.Argument(help="Slug of a chosen vector, or a vector file.")],
    dose: Annotated[float, typer.Argument(help="Length added, over the mean residual norm.")],
    prompt: Annotated[str, typer.Argument(help="What the model is asked.")],
    layer: Annotated[int | None, typer.Option(
        min=0, help="Block, or row in a file of rows; default: the vector's own.")] = None,
    name: Annotated[str | None, typer.Option(help="Tensor, in a file of several.")] = None,
    samples: Annotated[int, typer.Option(
        min=1, help="Sampled answers beside the greedy one.")] = 2,
    tokens: Annotated[int, typer.Option(min=1, help="New tokens at most.")] = 60,
    params: ParamsFile = PARAMS,
) -> None:  # fmt: skip
    """Answer a prompt with and without a steering vector, and with a random one as long."""
    check_dose(dose)
    which = chosen(vector, layer, name)  # what is wrong with it is said before a model is loaded
    active = load_params(params, whole=False)
    sampling = active.sampling.model_copy(update={"max_new_tokens": tokens})
    active = active.model_copy(update={"sampling": sampling})
    loaded = models(active).load(active.target(model))
    check_vector(which.held.vector, loaded.model.config.get_text_config().hidden_size, vector)
    show(
        f"{vector}{f' {name}' * bool(name)} on {model}",
        which,
        active,
        loaded,
        dose,
        prompt,
        samples,
    )


def show(
    title: str,
    which: Chosen,
    params: Params,
    loaded: Loaded,
    dose: float,
    prompt: str,
    samples: int,
) -> None:
    """Prints what is added, how far it moves the model, and the answers side by side."""
    blocks = len(decoder_blocks(loaded.model))
    block = which.held.acts_at(Path(title), blocks)
    check_blocks([block], blocks, "--layer")
    residual, where = which.residual, "recorded with the vector"
    if residual is None:
        ids = render(loaded.tokenizer, prompt, params.base.system_prompt).ids
        span = Text(ids, ((min(1, len(ids) - 1), len(ids)),))
        residual = float(capture(loaded.model, [span])[1][0, 0, block])
        where = "measured on this prompt, all tokens but the first"
    how = which.acting(dose, residual, block)
    control = random_direction(len(how.vector), params.run.seed, "steer")
    control_acts = Intervention(control, block, how.coefficient)
    ways = {"unsteered": None, "steered": how, "random": control_acts}
    texts, kl = answers(params, loaded, ways, prompt, samples)
    print(
        f"steered: {title}, added after block {block} (the first is 0)\n"
        f"  dose {dose:g}: {how.coefficient:.3g}, a share of the mean residual norm "
        f"{residual:.3g} ({where})\n"
        f"random: a direction that means nothing, added as long\n"
        f"KL from unsteered, nats a token: steered {kl['steered']:.3f}, random {kl['random']:.3f} "
        f"({HOW})"
    )
    for number in range(1 + samples):
        print(f"\n{f'sample {number}' if number else 'greedy'}")
        for way, each in texts.items():
            print(f"{way:>11}: {each[number]}")
