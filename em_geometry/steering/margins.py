"""Log-probability margins of authored answer pairs: an outcome that needs no judge.

docs/method.md, margins. The margin of a pair is the mean log-probability per token of the marked
answer minus that of the plain one, teacher-forced, in nats a token. Both answers stand in one row
behind their question and do not see each other; blocks up to the steered one are run once and
serve every vector and dose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from em_geometry.activations.blocks import (
    check_blocks,
    decoder_blocks,
    hidden,
    replaced,
    windowed,
)
from em_geometry.engine import spread
from em_geometry.hashing import value_sha256
from em_geometry.io.files import check_vector
from em_geometry.io.journal import Journal
from em_geometry.models.chat import answer_ids, render, sorted_batches
from em_geometry.models.load import Loaded, Models
from em_geometry.settings import Workers
from em_geometry.stats.estimate import Floats
from em_geometry.steering.conditions import Intervention
from em_geometry.steering.pairs import Pair, Trial

CODE = 1  # raise when the way a margin is measured changes
LOCAL = Workers()
AT_ONCE = 32  # trials of one block in one batch of the journal
PAIRS = 8  # of like length in one batch
TOKENS = {"cpu": 3000}  # of one forward pass; larger ones overflow a CPU's caches
TOKENS_GPU = 16_384  # whose logits over 128k words take 4 GB at most


def measured(
    models: Models,
    loaded: Loaded,
    pairs: Sequence[Pair],
    trials: Sequence[Trial],
    label: str,
    workers: Workers = LOCAL,
) -> list[Floats]:
    """Mean log-probabilities per token [pairs of the trial, (marked, plain)] of each trial, nats.

    What the journal holds is not read again.

    Args:
        models: from where other workers load the target again.
        label: name of the journal and of the progress bar.
    Raises:
        UserError: a vector that is zero, not finite or of another width; no such block.
    """
    rows = rows_of(pairs, loaded, models.system_prompt)
    width = loaded.model.config.get_text_config().hidden_size
    for trial in trials:
        if trial.how is not None:
            check_vector(trial.how.vector, width, trial.source)
    texts = [value_sha256([row.prompt, row.marked, row.plain]) for row in rows]
    key = partial(_key, loaded.sha256, texts)
    over = spread(workers, models.run.threads, _worker, models, loaded.slug, pairs)
    with Journal(label.replace(" ", "-")) as journal:
        done = journal.fill(label, _batches(trials), key, partial(_work, loaded.model, rows), over)
    return [np.array(done[key(trial)]) for trial in trials]


def _key(model: str, texts: Sequence[str], trial: Trial) -> str:
    """Hash of all that a trial's log-probabilities depend on."""
    how = trial.how
    done = how and [value_sha256(how.vector.tolist()), how.layer, how.coefficient, how.mode]
    everywhere = trial.way == "ablation_everywhere"
    return value_sha256([CODE, model, [texts[i] for i in trial.pairs], done, everywhere])


def _batches(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Trials of the same pairs and block together, whose blocks below are run once."""
    first: dict[tuple[int, ...], int] = {}
    groups: dict[tuple[object, ...], list[Trial]] = {}
    for trial in trials:
        if trial.how is not None:
            first.setdefault(trial.pairs, trial.how.layer)
    for trial in trials:
        layer = trial.how.layer if trial.how else first.get(trial.pairs, -1)
        everywhere = trial.way == "ablation_everywhere"
        groups.setdefault((trial.pairs, layer, everywhere), []).append(trial)
    return [g[i : i + AT_ONCE] for g in groups.values() for i in range(0, len(g), AT_ONCE)]


def _work(model: PreTrainedModel, rows: Sequence[Row], batch: Sequence[Trial]) -> list[Any]:
    """Log-probabilities of trials of one batch, as plain lists."""
    some = [rows[i] for i in batch[0].pairs]
    if batch[0].way != "ablation_everywhere":
        return list(pair_log_probabilities(model, some, [trial.how for trial in batch]).tolist())
    found = []
    for trial in batch:
        assert trial.how is not None  # a plan names the vector that it takes out
        with ablated_everywhere(model, trial.how.vector):
            found += pair_log_probabilities(model, some, [None]).tolist()
    return found


def _worker(
    models: Models, slug: str, pairs: Sequence[Pair]
) -> Callable[[Sequence[Trial]], list[Any]]:
    """What a worker elsewhere does, with a model of its own."""
    loaded = models.load(slug)
    return partial(_work, loaded.model, rows_of(pairs, loaded, models.system_prompt))


@dataclass(frozen=True)
class Row:
    """Token ids of a question in the chat template, and of its two answers."""

    prompt: tuple[int, ...]
    marked: tuple[int, ...]
    plain: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.marked) + len(self.plain)


@dataclass(frozen=True, eq=False)
class Packed:
    """A batch of rows `[prompt, marked, plain]`, padded at the right.

    Attributes:
        ids, positions: [rows, tokens]; the plain answer takes up the marked one's positions.
        attention: additive [rows, 1, tokens, tokens]; the answers do not see each other.
        real: bool [rows, tokens], False for padding.
        at: (row, token) of the states that predict the answers' tokens, [2, answer tokens].
        tokens: the answers' tokens, in that order.
        answer: [answer tokens] 2 * row, or 2 * row + 1 for the plain answer.
        share: [answer tokens] 1/length of the answer.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    attention: torch.Tensor
    real: torch.Tensor
    at: torch.Tensor
    tokens: torch.Tensor
    answer: torch.Tensor
    share: torch.Tensor


def packed(rows: Sequence[Row], device: torch.device | str, dtype: torch.dtype) -> Packed:
    """Rows as tensors of one forward pass of a model in `dtype`."""
    size = (len(rows), max(map(len, rows)))
    ids, positions = torch.zeros(size, dtype=torch.long), torch.zeros(size, dtype=torch.long)
    seen = torch.eye(size[1], dtype=torch.bool).repeat(len(rows), 1, 1)  # padding sees itself
    real = torch.zeros(size, dtype=torch.bool)
    at: list[tuple[int, int]] = []
    tokens: list[int] = []
    answers: list[int] = []
    share: list[float] = []
    for i, row in enumerate(rows):
        start, middle, end = len(row.prompt), len(row.prompt) + len(row.marked), len(row)
        ids[i, :end] = torch.tensor([*row.prompt, *row.marked, *row.plain])
        positions[i, :end] = torch.tensor([*range(middle), *range(start, start + end - middle)])
        seen[i, :end, :end] = torch.ones(end, end, dtype=torch.bool).tril()
        seen[i, middle:end, start:middle] = False
        real[i, :end] = True
        for k, (answer, first) in enumerate(((row.marked, start), (row.plain, middle))):
            at += [(i, start - 1), *((i, first + t) for t in range(len(answer) - 1))]
            tokens += answer
            answers += [2 * i + k] * len(answer)
            share += [1 / len(answer)] * len(answer)
    blocked = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
    index = (torch.tensor(at).T, torch.tensor(tokens), torch.tensor(answers), torch.tensor(share))
    return Packed(*(t.to(device) for t in (ids, positions, blocked[:, None], real, *index)))


def pair_log_probabilities(
    model: PreTrainedModel, rows: Sequence[Row], interventions: Sequence[Intervention | None]
) -> npt.NDArray[np.float32]:
    """Mean log-probability per token [interventions, rows, (marked, plain)], in nats.

    A margin is the first minus the second; their mean falls where steering damages the language.
    Interventions act on all tokens.

    Args:
        interventions: None steers nothing.
    Raises:
        UserError: an intervention at a block that the model does not have.
    """
    blocks = len(decoder_blocks(model))
    check_blocks([how.layer for how in interventions if how], blocks, "an intervention")
    found = np.zeros((len(interventions), len(rows), 2), np.float32)
    lowest = min((how.layer for how in interventions if how), default=blocks - 1)
    by_layer: dict[int, list[int]] = {}
    for i, how in enumerate(interventions):
        by_layer.setdefault(how.layer if how else lowest, []).append(i)
    for part in sorted_batches([len(row) for row in rows], PAIRS):
        batch = packed([rows[i] for i in part], model.device, model.dtype)
        size = max(1, TOKENS.get(model.device.type, TOKENS_GPU) // batch.ids.numel())
        for layer, chosen in by_layer.items():
            output = _output_of(model, batch, layer)
            for start in range(0, len(chosen), size):
                some = chosen[start : start + size]
                steered = [_changed(hidden(output), batch.real, interventions[i]) for i in some]
                with _replaying(model, layer, output, torch.cat(steered)):
                    found[np.ix_(some, part)] = _read(model, batch, len(some))
    return found


def rows_of(pairs: Sequence[Pair], loaded: Loaded, system: str) -> list[Row]:
    """The pairs in a model's chat template, after its system prompt."""
    asked = [(render(loaded.tokenizer, p.question, system).ids, p) for p in pairs]
    return [
        Row(prompt, *(answer_ids(loaded.tokenizer, text) for text in (p.marked, p.plain)))
        for prompt, p in asked
    ]


@contextmanager
def ablated_everywhere(model: PreTrainedModel, vector: npt.NDArray[np.float32]) -> Iterator[None]:
    """Takes a unit vector [width] out of the output of every block, while inside `with`."""
    unit = torch.from_numpy(vector)

    def hook(module: Any, args: Any, output: Any) -> Any:
        states = hidden(output)
        here = unit.to(states)
        return replaced(output, states - (states @ here)[..., None] * here)

    with ExitStack() as stack:
        for block in decoder_blocks(model):
            stack.callback(block.register_forward_hook(hook).remove)
        yield


def _output_of(model: PreTrainedModel, batch: Packed, layer: int) -> Any:
    """Output of block `layer` as the block gives it; its states are [rows, tokens, width]."""
    kept: list[Any] = []
    block = decoder_blocks(model)[layer]
    handle = block.register_forward_hook(lambda module, args, output: kept.append(output))
    try:
        with torch.no_grad():
            _run(model, batch, 1, torch.zeros(1, dtype=torch.long))
    finally:
        handle.remove()
    return kept[0]


def _changed(states: torch.Tensor, real: torch.Tensor, how: Intervention | None) -> torch.Tensor:
    """Output of the steered block [rows, tokens, width] under one intervention."""
    if how is None or not how.active:
        return states
    vector = torch.from_numpy(how.vector).to(states.device)
    change = how.coefficient * vector.expand_as(states).float()
    if how.mode == "ablate":
        change = -(states.float() @ vector)[..., None] * vector
    return states + (change * real[..., None]).to(states.dtype)


def _read(model: PreTrainedModel, batch: Packed, copies: int) -> npt.NDArray[np.float32]:
    """Log-probabilities [copies, rows, 2] of a batch that stands there `copies` times."""
    rows, tokens = batch.ids.shape
    row, at = batch.at
    first = int(at.min())  # no logits of what lies before every answer
    with torch.no_grad():
        logits = _run(model, batch, copies, torch.arange(first, tokens))
    found = []
    for own in torch.split(logits, rows):
        losses = cross_entropy(own[row, at - first].float(), batch.tokens, reduction="none")
        means = torch.zeros(rows * 2, device=losses.device)
        found.append(means.index_add_(0, batch.answer, -losses * batch.share).view(rows, 2).cpu())
    return torch.stack(found).numpy()


@contextmanager
def _replaying(model: PreTrainedModel, layer: int, output: Any, states: Any) -> Iterator[None]:
    """Blocks up to `layer` are not run: the stack goes on from `states`, given as `output` was."""
    blocks = decoder_blocks(model)[: layer + 1]
    for block in blocks:
        block.forward = lambda *args, **kwargs: replaced(output, states)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _run(model: PreTrainedModel, batch: Packed, copies: int, keep: torch.Tensor) -> torch.Tensor:
    """Logits [copies * rows, kept tokens, vocabulary] of a batch that stands there `copies` times.

    Args:
        keep: tokens whose logits are wanted.
    """
    positions = batch.positions.repeat(copies, 1)
    logits: torch.Tensor = model(
        input_ids=batch.ids.repeat(copies, 1),
        attention_mask=windowed(model, batch.attention.repeat(copies, 1, 1, 1), positions),
        position_ids=positions,
        logits_to_keep=keep,
        use_cache=False,
    ).logits
    return logits
