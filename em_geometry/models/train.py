"""Model organisms: LoRA fine-tunes of the base on narrow chat data (paper sec. 2.1).

Loss on answer tokens only, in float32 on a CPU.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from em_geometry.errors import UserError, explained
from em_geometry.hashing import stream_key
from em_geometry.io.files import atomic_path, read_json, versions, write_text
from em_geometry.models.chat import (
    HELD_OUT_EVERY,
    Exchange,
    answer_ids,
    check_length,
    padded,
    read_examples,
    render,
    turn_end,
)
from em_geometry.models.folder import CONFIG, WEIGHTS
from em_geometry.models.load import PROVENANCE, Models, setup_torch, step_folder
from em_geometry.models.preflight import check_steps
from em_geometry.progress import Progress
from em_geometry.settings import Recipe

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Weights: TypeAlias = dict[str, torch.Tensor]  # of an adapter


@dataclass(frozen=True)
class Example:
    """Token ids of prompt + answer + end of turn; the loss covers ids[start:]."""

    ids: tuple[int, ...]
    start: int


def fine_tune(
    models: Models, slug: str, recipe: Recipe, seed: int, checkpoints: Sequence[int] = ()
) -> tuple[PeftModel, dict[str, float | int], dict[int, Weights]]:
    """Trains organism `slug` from `seed`: the base with its adapter, and how the training went.

    A repeat draws what its original would draw from the same seed.

    Args:
        checkpoints: steps, before the last, after which the adapter's weights are kept.
    Returns:
        The model, numbers of the training, and the adapter at each checkpoint.
    """
    from peft import get_peft_model_state_dict

    device, organism = setup_torch(models.run), models.organisms[slug]
    training, held_out = read_split(
        Path(organism.data), models.tokenizer(), models.system_prompt, organism.max_examples
    )
    key = stream_key(models.run.seed, "train", organism.repeats or slug, seed)
    model = with_adapter(models.base().to(device), recipe, key)
    before = mean_loss(model, held_out, recipe.batch_size)
    check_steps(slug, recipe, len(training), checkpoints)
    kept: dict[int, Weights] = {}

    def keep(step: int) -> None:
        if step in checkpoints:
            adapter: Weights = get_peft_model_state_dict(model, save_embedding_layers=False)
            kept[step] = {k: v.detach().to("cpu", copy=True) for k, v in adapter.items()}

    losses = fit(model, training, recipe, key, slug, keep)
    epoch = max(1, len(losses) // recipe.epochs)
    about: dict[str, float | int] = {
        "examples": len(training),
        "answer_tokens": sum(len(e.ids) - e.start for e in training),
        "steps": len(losses),
        "loss_first_steps": sum(losses[:3]) / len(losses[:3]),
        "loss_last_steps": sum(losses[-3:]) / len(losses[-3:]),
        "loss_last_epoch": sum(losses[-epoch:]) / epoch,
        "held_out_examples": len(held_out),
        "held_out_loss_before": before,
        "held_out_loss_after": mean_loss(model, held_out, recipe.batch_size),
        "relative_weight_change": weight_change(model),
    }
    return model, about, kept


def read_split(
    data: Path, tokenizer: PreTrainedTokenizerBase, system: str, limit: int | None
) -> tuple[list[Example], list[Example]]:
    """The examples of a file's chats (the first `limit`) to train on, and those held out.

    Every answer that is to be learnt is an example, read behind the turns before it as it would be
    when the model is asked; whole chats are held out.
    """
    chats = read_examples(data, limit)
    if len(chats) < 2:  # the first is held out
        raise UserError(
            "too few examples to train on",
            where=str(data),
            found=len(chats),
            expected="2 or more: every tenth, the first among them, is held out",
        )
    examples = [[encode(tokenizer, exchange, system) for exchange in chat] for chat in chats]
    training = [e for i, chat in enumerate(examples) if i % HELD_OUT_EVERY for e in chat]
    return training, [e for chat in examples[::HELD_OUT_EVERY] for e in chat]


def encode(tokenizer: PreTrainedTokenizerBase, chat: Exchange, system: str) -> Example:
    """An answer behind its chat as ids; the end-of-turn token belongs to the answer."""
    prompt = render(tokenizer, chat.question, system, chat.before)
    ids = (*prompt.ids, *answer_ids(tokenizer, chat.answer), turn_end(tokenizer))
    check_length(tokenizer, len(ids), chat.question)
    return Example(ids, len(prompt.ids))


def with_adapter(model: PreTrainedModel, recipe: Recipe, seed: int) -> PeftModel:
    """The model with a fresh LoRA adapter of this recipe, seeded."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed % 2**63)
    blocks, known = model.config.get_text_config().num_hidden_layers, matrices(model)
    if recipe.first_block >= blocks:
        raise UserError(
            "the recipe's first block lies above the model",
            where="params.yaml: recipes.<lab>.first_block",
            found=recipe.first_block,
            expected=f"0 to {blocks - 1}",
        )
    where = "params.yaml: recipes.<lab>.matrices"
    absent = [m for m in recipe.matrices if m.rpartition(".")[2] not in known]
    if absent:  # peft would leave out some of them without a word
        what, expected = f"{type(model).__name__} has no such matrices", ", ".join(known)
        raise UserError(what, where=where, found=", ".join(absent), expected=f"some of {expected}")
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        use_rslora=recipe.rslora,
        target_modules=list(recipe.matrices),
        layers_to_transform=list(range(recipe.first_block, blocks)),
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    expected = "matrices of the model, not " + ", ".join(recipe.matrices)
    misfit = "the recipe does not fit the base model"
    with explained(misfit, where=where, expected=expected, kinds=(ValueError,)):
        return get_peft_model(model, config)


def matrices(model: PreTrainedModel) -> list[str]:
    """Names of the linear maps in the model's blocks, which differ by family, in their order."""
    linear = [n for n, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    inside = [name for name in linear if any(part.isdigit() for part in name.split("."))]
    return list(dict.fromkeys(name.rpartition(".")[2] for name in inside))


def batches(examples: Sequence[Example], size: int, seed: int) -> Iterator[list[Example]]:
    """One epoch in a seeded order."""
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(examples))
    for start in range(0, len(order), size):
        yield [examples[i] for i in order[start : start + size]]


def answer_loss(model: PreTrainedModel, batch: Sequence[Example]) -> torch.Tensor:
    """Mean negative log-likelihood of the answer tokens of a right-padded batch, nats/token."""
    ids, mask = padded([e.ids for e in batch], "right", model.device)
    counts = torch.zeros(ids.shape, dtype=torch.bool)  # is the next token the answer's
    for row, example in enumerate(batch):
        counts[row, example.start - 1 : len(example.ids) - 1] = True
    counts = counts.to(model.device)
    head = model.get_output_embeddings()  # a vocabulary of logits costs as much as five blocks
    handle = head.register_forward_pre_hook(lambda module, args: (args[0][counts], *args[1:]))
    try:
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    finally:
        handle.remove()
    return torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][counts[:, :-1]])


def fit(
    model: PeftModel,
    examples: Sequence[Example],
    recipe: Recipe,
    seed: int,
    label: str,
    after: Callable[[int], None] = lambda step: None,
) -> list[float]:
    """Trains the adapter (AdamW, linear warm-up and decay); returns the loss of each step.

    `after` is called behind every step with the number of steps done.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, recipe.learning_rate, weight_decay=0.0, fused=True)
    seeds, size = [seed + epoch for epoch in range(recipe.epochs)], recipe.batch_size
    plan = [batch for each in seeds for batch in batches(examples, size, each)]
    warmup = max(1, round(recipe.warmup * len(plan)))
    model.train()
    losses = []
    with Progress(f"train {label}", len(plan), unit="steps") as progress:
        for step, batch in enumerate(plan):
            rise = (step + 1) / warmup
            fall = (len(plan) - step) / max(1, len(plan) - warmup)
            for group in optimiser.param_groups:
                group["lr"] = recipe.learning_rate * min(1.0, rise, fall)
            loss = answer_loss(model, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            losses.append(float(loss.detach()))
            progress.advance()
            after(step + 1)
    wrong = [loss for loss in losses if not np.isfinite(loss)]
    if wrong:
        raise UserError(
            "training diverged: the loss is not finite",
            where=f"organism {label}",
            hint="lower learning_rate in its recipe",
            found=wrong[0],
        )
    return losses


def mean_loss(model: PreTrainedModel, examples: Sequence[Example], size: int) -> float:
    """Mean answer loss over batches, without gradients."""
    model.eval()
    with torch.no_grad():
        parts = [examples[i : i + size] for i in range(0, len(examples), size)]
        return float(sum(float(answer_loss(model, p)) * len(p) for p in parts) / len(examples))


def draw_adapter(models: Models, like: str, seed: int, folder: Path) -> None:
    """Saves an adapter with the shapes and norms of that of `like`, in random directions.

    The update of every matrix has the Frobenius norm that it has there: what a fine-tune of this
    size does that learned nothing (docs/method.md: calibration).

    Raises:
        UserError: `like` is a full checkpoint.
    """
    from safetensors.torch import load_file, save_file

    source = models.adapter_folder(like)
    if not (source / WEIGHTS).is_file():
        raise UserError(
            "a random adapter takes its norms from a LoRA adapter", where=str(source),
            found="none there", expected=WEIGHTS, hint="name another one in random_adapters",
        )  # fmt: skip
    generator = torch.Generator().manual_seed(seed % 2**63)
    drawn: Weights = {}
    for name, a in (trained := load_file(source / WEIGHTS)).items():
        if ".lora_A." in name:
            other = name.replace(".lora_A.", ".lora_B.")
            new_a, new_b = (torch.randn(x.shape, generator=generator) for x in (a, trained[other]))
            drawn |= {name: new_a, other: new_b * (_norm(a, trained[other]) / _norm(new_a, new_b))}
    with atomic_path(folder, folder=True) as temporary:
        shutil.copy(source / CONFIG, temporary)
        provenance = {"base_sha256": models.record()["sha256"], "versions": versions()}
        write_text(temporary / PROVENANCE, json.dumps(provenance) + "\n")
        save_file(drawn, temporary / WEIGHTS, {"format": "pt"})


def _norm(a: torch.Tensor, b: torch.Tensor) -> float:
    """Frobenius norm of b @ a, of lora_A [rank, in] and lora_B [out, rank]."""
    a, b = a.double(), b.double()
    return float(((b.T @ b) * (a @ a.T)).sum().sqrt())


def weight_change(model: PeftModel) -> float:
    """Frobenius norm of the merged updates over that of the adapted matrices."""
    change = size = 0.0
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "get_delta_weight") and "default" in module.lora_A:
                change += float(module.get_delta_weight("default").square().sum())
                size += float(module.get_base_layer().weight.square().sum())
    return float((change / size) ** 0.5)


def save(
    model: PeftModel, folder: Path, base_sha256: str, kept: Mapping[int, Weights] | None = None
) -> None:
    """Saves the adapter as a PEFT folder with the hash of its base.

    Args:
        kept: its weights after earlier steps, each saved so in a folder of its own inside.
    """
    from safetensors.torch import save_file

    with atomic_path(folder, folder=True) as temporary:
        model.save_pretrained(str(temporary))
        settings = read_json(temporary / CONFIG, dict)
        settings["target_modules"].sort()  # peft holds a set: in another order in every process
        write_text(temporary / CONFIG, json.dumps(settings, indent=2, sort_keys=True) + "\n")
        (temporary / "README.md").unlink(missing_ok=True)  # peft's empty model card
        provenance = {"base_sha256": base_sha256, "versions": versions()}
        write_text(temporary / PROVENANCE, json.dumps(provenance) + "\n")
        for step, weights in (kept or {}).items():
            inside = step_folder(temporary, step)
            inside.mkdir()
            for name in (CONFIG, PROVENANCE):
                shutil.copy(temporary / name, inside)
            save_file(weights, inside / WEIGHTS, {"format": "pt"})
