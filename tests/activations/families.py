"""Random models of several families, small enough for milliseconds."""

from typing import Any

import torch
import transformers

BLOCKS, WIDTH, VOCABULARY = 3, 16, 48
FAMILIES = {
    "llama": ("LlamaConfig", {}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 8}),
    "gemma": ("GemmaConfig", {"head_dim": 8}),
    "gemma2": ("Gemma2Config", {"head_dim": 8, "sliding_window": 4}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 8, "sliding_window": 4}),
    "gpt_neox": ("GPTNeoXConfig", {}),
    "mistral": ("MistralConfig", {"sliding_window": 4}),  # in every block
}


def random_model(
    family: str, vocabulary: int = VOCABULARY, blocks: int = BLOCKS, seed: int = 0, **more: Any
) -> Any:
    """A causal language model of the family with fixed random weights."""
    kind, extra = FAMILIES[family]
    settings = {
        "vocab_size": vocabulary, "hidden_size": WIDTH, "intermediate_size": 24,
        "num_hidden_layers": blocks, "num_attention_heads": 2, "max_position_embeddings": 64,
        "num_key_value_heads": 2 if family == "gpt_neox" else 1,
        "initializer_range": 0.3,  # large, so that blocks and positions matter
    }  # fmt: skip
    config = getattr(transformers, kind)(**(settings | extra | more))
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def our_hooks(model: Any) -> list[Any]:
    """Forward hooks of this project on the model (the library keeps some of its own)."""
    return [
        hook
        for module in model.modules()
        for hook in module._forward_hooks.values()
        if hook.__module__.startswith("em_geometry.")
    ]
