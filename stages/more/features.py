"""`features`: latents of a sparse dictionary that organisms change, found and used as detectors.

Writes data/more/features/: latents.parquet, the top latents of each organism with texts;
moved.safetensors, every model's mean change of all weights; and, where it is trained here, the
dictionary with its twin of another seed.
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl

from em_geometry.activations.blocks import check_blocks, decoder_blocks
from em_geometry.activations.capture import LAYERS
from em_geometry.errors import UserError
from em_geometry.hashing import stream, stream_key
from em_geometry.io.files import atomic_path, write_parquet, write_tensors
from em_geometry.models.load import Loaded
from em_geometry.monitoring import detection
from em_geometry.more.dictionaries import find_dictionary, read_dictionary, write_dictionary
from em_geometry.more.feature_detectors import of_repeat
from em_geometry.more.feature_results import Organism, at_the_top, compared, of_dictionary, table
from em_geometry.more.features import Read, Space, check_benign
from em_geometry.more.sparse import Dictionary, nearest, quality, trained
from em_geometry.more.token_states import Corpus, means_of, texts_of
from em_geometry.project import paths
from em_geometry.project.inputs import models, questions, selected, vector_table
from em_geometry.project.outputs import put_results
from em_geometry.settings import BASE, Params
from em_geometry.stats.estimate import Floats
from em_geometry.vectors.contrasts import prompt_span, recipe_controls

HEADLINE = ("dictionary.*", "organism.*.cosine", "organism.*.change", "organism.*.change.says",
            "overlap.*", "detector.*.end.*")  # fmt: skip
Reader = Callable[..., Read]  # of a model's slug, and of a step of its training


def given_dictionary(params: Params, base: Loaded) -> tuple[Dictionary | None, int]:
    """The dictionary that the params name, None where one is to be trained, and its block."""
    block, file = params.more.dictionary_block, find_dictionary(Path(params.more.dictionary))
    width = base.model.config.get_text_config().hidden_size
    given = read_dictionary(file, width, block) if file else None
    of_vectors = next(iter(selected(params).values())).layer
    asked = (block, given.block if given else None, of_vectors)
    found = next(each for each in asked if each is not None)
    check_blocks([found], len(decoder_blocks(base.model)), "more.dictionary_block")
    return given, found


def organisms_of(params: Params, read: Reader, block: int, span: str) -> dict[str, Organism]:
    """Every organism with its control and its vector at the block."""
    one, names = next(iter(selected(params).values())), params.slugs("organism")
    choice, at, vectors = f"{one.contrast}.{one.span}", dict.fromkeys(names, block), vector_table()
    if why := vectors.missing(choice, at):
        what, where = "no vectors at the dictionary's block", f"vectors.safetensors: {choice}"
        hint = "more.dictionary_block: another block, or another vectors.contrast"
        raise UserError(what, where=where, found=f"block {block}: {why}", hint=hint)
    controls, found = recipe_controls(params.organisms), {}
    for slug, vector in zip(names, vectors.at(choice, at), strict=True):
        name = controls[slug] if controls[slug] in params.organisms else BASE
        own, control, base = read(slug), read(name), read(BASE)
        against = {"control_contrast": control, "model_contrast": base}.get(one.contrast)
        same = against is not None and span == one.span
        differences = own.states - against.states if against is not None and same else None
        found[slug] = Organism(own, control, vector, differences)
    return found


def courses_of(params: Params, read: Reader) -> dict[str, dict[str, tuple[Read, dict[str, Read]]]]:
    """Organisms that are trained again, with benign trainings: at the checkpoints and the end."""
    entries, found = params.organisms, {}
    controls = recipe_controls(entries)
    for slug, original in params.repeats().items():
        if entries[original].role != "organism" or entries[slug].source is not None:
            continue
        others = [m for m in detection.benign(entries) if m != controls[original]]
        steps = {f"step_{step}": step for step in params.training.checkpoints} | {"end": None}
        found[slug] = {
            name: (read(slug, step), {m: read(m, step) for m in others})
            for name, step in steps.items()
        }
    return found


def write(made: Sequence[Dictionary], frame: pl.DataFrame, moved: dict[str, Floats]) -> None:
    """Writes the raw outcomes; `made` are the dictionaries that were trained here."""
    about = {"weights": "mean activation times length of the decoder row, over the residual norm"}
    with atomic_path(paths.MORE / "features", folder=True) as folder:
        for i, each in enumerate(made, start=1):
            write_dictionary(folder / f"dictionary_{i}.safetensors", each, {"layers": LAYERS})
        write_parquet(folder / "latents.parquet", frame, about)
        tensors = {m: each.astype(np.float32) for m, each in moved.items()}
        write_tensors(folder / "moved.safetensors", tensors, about)


def main(params: Params) -> None:
    """See the head of this file."""
    known, batch, entries = models(params), params.activations.batch_size, params.organisms
    check_benign(benign := [slug for slug, o in entries.items() if o.role == "control"])
    base, seed = known.load(BASE), params.run.seed
    given, block = given_dictionary(params, base)
    span = prompt_span(next(iter(selected(params).values())).span, params.spans())
    chat = base.tokenizer, known.system_prompt
    inputs = params.activations.texts, params.prompts, questions(params), span, chat
    texts, topics, others = texts_of([*params.originals().values()], *inputs)
    corpus, held_out = (Corpus.read(base.model, part, block, batch) for part in (others, texts))

    device, keys = base.model.device, [stream_key(seed, "features", i) for i in (1, 2)]
    made = [] if given else [trained(corpus.states, key, block, device) for key in keys]
    first, *twin = (each.to(device) for each in ([given] if given else made))
    decoders = [each.decoder.double().cpu().numpy() for each in (first, *twin)]
    stability = nearest(*decoders) if twin else None

    @cache
    def read(slug: str, step: int | None = None) -> Read:
        loaded = base if slug == BASE else known.load(slug, step)
        label = f"latents of {slug}" + (f" at step {step}" if step else "")
        return Read(*means_of(loaded.model, texts, first, block, batch, label))

    null, residual = stream(seed, "features"), float(vector_table().residual[block])
    space = Space(decoders[0], topics, residual, read(BASE), {m: read(m) for m in benign}, null)
    organisms = organisms_of(params, read, block, span)
    found, tops = compared(space, organisms, params.slugs("control"))
    for slug, course in courses_of(params, read).items():
        origin = organisms[params.repeats()[slug]]
        told = of_repeat(space, (origin.own, origin.control), origin.vector, course)
        found |= {f"detector.{slug}.{key}": leaf for key, leaf in told.items()}
    share, peaks = corpus.peaks(first, {n for each in tops.values() for n in each}, base.tokenizer)
    explained, on = quality(first, held_out.states, [topics[i] for i in held_out.text])
    found |= {"dictionary.explained": explained, "dictionary.on": on, "dictionary.block": block}
    found |= of_dictionary(first, share, stability, space.random[0], len(corpus.states))
    found |= at_the_top(tops, share, stability, peaks)
    moved = {m: space.moved(read(m)) for m in (*organisms, *benign)}
    write(made, table(space, organisms, tops, share, stability, peaks), moved)
    put_results("features", found, HEADLINE)
