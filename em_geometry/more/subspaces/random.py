"""Random adapters of the norms of trained ones, drawn, loaded and read on texts.

docs/method.md, more: subspaces.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from em_geometry.activations.prompts import Text
from em_geometry.hashing import stream_key
from em_geometry.models.load import Loaded, Models
from em_geometry.models.train import draw_adapter
from em_geometry.more.adapters import Factors, read_adapter
from em_geometry.more.kept import Means, span_means


def drawn(
    models: Models,
    likes: Mapping[str, str],
    texts: Callable[[Loaded], Sequence[Text]],
    size: int,
) -> Iterator[tuple[str, dict[str, Factors], Means]]:
    """Draws adapters, which are not kept: name, factors, and activations [texts, blocks, width].

    Args:
        likes: name -> the organism whose norms it has.
        texts: what a loaded model reads.
        size: texts in one pass.
    """
    with TemporaryDirectory() as place:
        here = replace(models, adapters=Path(place))
        for name, like in likes.items():
            seed = stream_key(models.run.seed, "subspaces", name)
            draw_adapter(models, like, seed, here.adapters / name)
            loaded = here.load(name)
            means = span_means(loaded, texts(loaded), f"subspaces {name}", size)
            yield name, read_adapter(here.adapters / name), means
