"""Stage `activations`: a model's residual stream on prompts, and on answers nobody trained on.

Writes data/activations/<model>.safetensors (spans and their norms), <model>.parquet (one row a
neutral or harmful prompt, in the same order) and <model>_texts.parquet (one row an answer).
"""

from collections.abc import Sequence

from em_geometry.activations.capture import store
from em_geometry.activations.prompts import (
    Text,
    prompt_texts,
    read_prompts,
    unseen_chats,
    unseen_texts,
)
from em_geometry.io.files import write_parquet
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import models
from em_geometry.settings import TEXTS, Params


@stage
def main(params: Params, *slugs: str) -> None:
    """Captures the activations of these targets, of all where none is named."""
    known, settings = models(params), params.activations
    prompts = read_prompts(params.prompts)
    chats = unseen_chats(params.originals().values(), settings.texts)
    for slug in [*map(params.target, slugs)] or params.targets:
        loaded = known.load(slug)
        chat = loaded.tokenizer, known.system_prompt
        texts, rows = prompt_texts(prompts, settings.spans, *chat)
        answers, about = unseen_texts(chats, *chat)
        path, how = paths.ACTIVATIONS / slug, (settings.batch_size, f"activations {slug}")
        parts: list[tuple[Sequence[str], Sequence[Text]]] = [(settings.spans, texts)]
        if answers:
            parts.append(([TEXTS], answers))
        tensors = path.with_suffix(".safetensors")
        metadata = store(tensors, known, loaded, parts, *how, workers=params.workers)
        write_parquet(path.with_suffix(".parquet"), rows, metadata)
        write_parquet(path.with_name(f"{slug}_texts.parquet"), about, metadata)
