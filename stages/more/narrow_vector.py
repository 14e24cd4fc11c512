"""Part of `narrow`: the vector that the adapter of rank 1 writes, beside differences of means."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from em_geometry.io.results import Leaf
from em_geometry.models.load import Loaded
from em_geometry.more.adapters import read_adapter, written_vectors
from em_geometry.more.kept import span_means
from em_geometry.more.likelihoods import updated
from em_geometry.more.narrow.breadth import Variant, read_pairs_of
from em_geometry.more.narrow.rank_one import by_block, cosines, removed, steering, trials
from em_geometry.project.inputs import activations, models, rows, selected, texts_of
from em_geometry.settings import BASE, Params
from em_geometry.steering.conditions import Intervention
from em_geometry.steering.formats import write_vectors
from em_geometry.steering.pairs import Pair, thinned
from em_geometry.vectors.contrasts import prompt_span


def of_vector(
    params: Params, slug: str, own: str, base: Loaded, adapted: Variant, pairs: Sequence[Pair],
    some: tuple[int, ...],
) -> dict[str, Leaf]:  # fmt: skip
    """Reads base and organism of rank 1; writes the vector beside the adapter's folder."""
    assert adapted.folder
    known, at = models(params), selected(params)[slug]
    span, size = prompt_span(at.span, params.spans()), params.activations.batch_size
    shifts = {m: activations(m, span).astype(float) for m in (slug, own, BASE)}
    with updated(base.model, read_adapter(adapted.folder)):
        loaded = replace(base, sha256=adapted.sha256(base.sha256))
        moved = span_means(loaded, texts_of(params, base, span), "narrow texts", size)
    moved, topics = moved - shifts[BASE], rows(span)["topic"].to_list()
    (vector,) = (each.vector for each in written_vectors(adapted.folder).values())
    if moved[:, at.layer].mean(0) @ vector < 0:
        vector = -vector
    how = [Intervention(vector, at.layer, 1.0)]
    write_vectors(adapted.folder.with_name("written.safetensors"), how)

    less = {f"less_{m}": (shifts[slug] - shifts[m])[:, at.layer] for m in (own, BASE)}
    found = cosines(vector.astype(float), less, topics)
    found |= by_block(moved, shifts[slug] - shifts[BASE], topics, at.layer)
    few = thinned(some, params.margins.other_pairs)
    vectors, done = {"written": vector / np.linalg.norm(vector), "mean_difference": at.vector}, {}
    for name, variant in ((BASE, Variant()), ("rank_one", adapted)):
        plan = trials(some if name == BASE else (), few, vectors, at, params.run.seed)
        label = f"narrow vector {name}"
        read = read_pairs_of(base, known, variant, pairs, [*plan.values()], label)
        done[name] = dict(zip(plan, read, strict=True))
    found |= steering(done[BASE], [*vectors])
    return found | removed(done[BASE], done["rank_one"], [*vectors])
