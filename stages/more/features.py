"""`features`: latents of a sparse dictionary that organisms change, found and used as detectors.

Writes data/more/features/: latents.parquet, the top latents of each organism with texts;
moved.safetensors, every model's mean change of all weights; and, where it is trained here, the
dictionary with its twin of another seed.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl

from em_geometry.activations.blocks import check_blocks, decoder_blocks
from em_geometry.activations.capture import LAYERS
from em_geometry.hashing import stream, stream_key
from em_geometry.io.files import atomic_path, write_parquet, write_tensors
from em_geometry.more.features.detectors import courses, of_repeat
from em_geometry.more.features.dictionaries import given_dictionary, write_dictionary
from em_geometry.more.features.latents import Read, Space, check_benign
from em_geometry.more.features.sparse import Dictionary, nearest, quality, trained
from em_geometry.more.features.summary import (
    at_the_top,
    compared,
    of_dictionary,
    organism,
    table,
    vectors_at,
)  # fmt: skip
from em_geometry.more.features.token_states import Corpus, means_of, texts_of
from em_geometry.project import paths
from em_geometry.project.inputs import models, questions, selected, vector_table
from em_geometry.project.outputs import put_results
from em_geometry.settings import BASE, Params
from em_geometry.stats.estimate import Floats
from em_geometry.vectors.contrasts import prompt_span

HEADLINE = ("dictionary.*", "organism.*.cosine", "organism.*.change", "organism.*.change.says",
            "overlap.*", "detector.*.end.*")  # fmt: skip


def write(made: Sequence[Dictionary], frame: pl.DataFrame, moved: Mapping[str, Floats]) -> None:
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
    check_benign(benign := params.slugs("control"))
    base, seed, one = known.load(BASE), params.run.seed, next(iter(selected(params).values()))
    place, width = Path(params.more.dictionary), base.model.config.get_text_config().hidden_size
    given, block = given_dictionary(place, width, params.more.dictionary_block, one.layer)
    check_blocks([block], len(decoder_blocks(base.model)), "more.dictionary_block")
    table_of_vectors, names = vector_table(), params.slugs("organism")
    vectors = vectors_at(table_of_vectors, f"{one.contrast}.{one.span}", names, block)
    span, chat = prompt_span(one.span, params.spans()), (base.tokenizer, known.system_prompt)
    inputs = params.activations.texts, params.prompts, questions(params), span, chat
    texts, topics, others = texts_of([*params.originals().values()], *inputs)
    corpus, held_out = (Corpus.read(base.model, part, block, batch) for part in (others, texts))

    device, keys = base.model.device, [stream_key(seed, "features", i) for i in (1, 2)]
    made = [] if given else [trained(corpus.states, key, block, device) for key in keys]
    first, *twin = (each.to(device) for each in ([given] if given else made))
    decoders = [each.decoder.double().cpu().numpy() for each in (first, *twin)]
    stability = nearest(*decoders) if twin else None

    @cache
    def read(slug: str, step: int | None) -> Read:
        loaded = base if slug == BASE else known.load(slug, step)
        label = f"latents of {slug}" + (f" at step {step}" if step else "")
        return Read(*means_of(loaded.model, texts, first, block, batch, label))

    null, residual = stream(seed, "features"), float(table_of_vectors.residual[block])
    space = Space(
        decoders[0], topics, residual, read(BASE, None), {m: read(m, None) for m in benign}, null
    )
    contrast = one.contrast if span == one.span else None
    organisms = {m: organism(read, m, entries, v, contrast) for m, v in vectors.items()}
    found, tops = compared(space, organisms)
    for slug, course in courses(read, entries, params.training.checkpoints).items():
        origin = organisms[params.repeats()[slug]]
        told = of_repeat(space, (origin.own, origin.control), origin.vector, course)
        found |= {f"detector.{slug}.{key}": leaf for key, leaf in told.items()}
    share, peaks = corpus.peaks(first, {n for each in tops.values() for n in each}, base.tokenizer)
    explained, on = quality(first, held_out.states, [topics[i] for i in held_out.text])
    found |= {"dictionary.explained": explained, "dictionary.on": on, "dictionary.block": block}
    found |= of_dictionary(first, share, stability, space.random[0], len(corpus.states))
    found |= at_the_top(tops, share, stability, peaks)
    moved = {m: space.moved(read(m, None)) for m in (*organisms, *benign)}
    write(made, table(space, organisms, tops, share, stability, peaks), moved)
    put_results("features", found, HEADLINE)
