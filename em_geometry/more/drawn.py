"""Random adapters of the norms of trained ones, drawn, loaded and read on texts.

docs/method.md, more: subspaces.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from em_geometry.activations.capture import store
from em_geometry.activations.prompts import Text
from em_geometry.hashing import stream_key
from em_geometry.models.load import Loaded, Models
from em_geometry.models.train import draw_adapter
from em_geometry.more.adapters import Factors, read_adapter
from em_geometry.settings import Workers


def drawn(
    models: Models,
    likes: Mapping[str, str],
    texts: Callable[[Loaded], Sequence[Text]],
    span: str,
    batch_size: int,
    folder: Path,
    workers: Workers,
) -> dict[str, dict[str, Factors]]:
    """Draws adapters; writes their activations to `<folder>/<name>.safetensors`.

    Args:
        likes: name -> the organism whose norms it has.
        texts: what a loaded model reads.
        span: name of the tensor.
    Returns:
        Their factors; the adapters themselves are not kept.
    """
    found = {}
    with TemporaryDirectory() as place:
        here = replace(models, adapters=Path(place))
        for name, like in likes.items():
            seed = stream_key(models.run.seed, "subspaces", name)
            draw_adapter(models, like, seed, here.adapters / name)
            found[name] = read_adapter(here.adapters / name)
            loaded = here.load(name)
            path, parts = folder / f"{name}.safetensors", [([span], texts(loaded))]
            how = batch_size, f"activations {name}"
            store(path, here, loaded, parts, *how, norms=False, workers=workers)
    return found
