"""The texts behind a span of activations, for experiments that read further models on them."""

from collections.abc import Sequence

from em_geometry.activations.prompts import (
    Text,
    prompt_texts,
    read_prompts,
    unseen_chats,
    unseen_texts,
)
from em_geometry.models.load import Loaded
from em_geometry.settings import TEXTS, Params


def texts_of(params: Params, loaded: Loaded, span: str) -> Sequence[Text]:
    """What the models' activations on this span are of, in order."""
    chat = loaded.tokenizer, params.base.system_prompt
    if span != TEXTS:
        return prompt_texts(read_prompts(params.prompts), [span], *chat)[0]
    chats = unseen_chats(params.originals().values(), params.activations.texts)
    return unseen_texts(chats, *chat)[0]
