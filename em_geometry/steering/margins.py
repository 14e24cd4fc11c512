"""Log-probability margins of authored answer pairs: an outcome that needs no judge.

docs/method.md, margins. The margin of a pair is the mean log-probability per token of the marked
answer minus that of the plain one, teacher-forced, in nats a token. Both answers stand in one row
behind their question and do not see each other, and rows side by side behind what all begin with;
blocks up to the steered one are run once and serve every vector and dose.
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
from em_geometry.models.chat import answer_ids, render
from em_geometry.models.load import Loaded, Models
from em_geometry.settings import Workers
from em_geometry.stats.estimate import Floats
from em_geometry.steering.conditions import Intervention
from em_geometry.steering.pairs import Pair, Trial

CODE = 2  # raise when the way a margin is measured changes
LOCAL = Workers()
AT_ONCE = 32  # trials of one block in one batch of the journal
PACKED = 512  # tokens side by side: of more, each would look for its own among too many
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
    """Rows side by side in one sequence: what their prompts begin with stands there once.

    Attributes:
        ids, positions: [1, tokens]; each row goes on from the common beginning, and the plain
            answer takes up the marked one's positions.
        attention: additive [1, 1, tokens, tokens]; neither rows nor a row's answers see each other.
        at: [answer tokens] the states that predict the answers' tokens.
        tokens: the answers' tokens, in that order.
        answer: [answer tokens] 2 * row, or 2 * row + 1 for the plain answer.
        share: [answer tokens] 1/length of the answer.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    attention: torch.Tensor
    at: torch.Tensor
    tokens: torch.Tensor
    answer: torch.Tensor
    share: torch.Tensor

    def means(self, logits: torch.Tensor) -> torch.Tensor:
        """Mean log-probabilities [rows, (marked, plain)] from logits [answer tokens, words]."""
        losses = cross_entropy(logits.float(), self.tokens, reduction="none")
        means = torch.zeros(int(self.answer.max()) + 1, device=losses.device)
        return means.index_add_(0, self.answer, -losses * self.share).view(-1, 2).cpu()


def packed(rows: Sequence[Row], device: torch.device | str, dtype: torch.dtype) -> Packed:
    """Rows as tensors of one forward pass of a model in `dtype`."""
    common = _common([row.prompt[:-1] for row in rows])
    ids, positions = [*rows[0].prompt[:common]], [*range(common)]
    total = common + sum(len(row) - common for row in rows)
    seen = torch.zeros(total, total, dtype=torch.bool)
    seen[:, :common] = True
    at: list[int] = []
    tokens: list[int] = []
    answers: list[int] = []
    share: list[float] = []
    for i, row in enumerate(rows):
        start, length = len(ids), len(row.prompt)
        marked = start + length - common
        plain, end = marked + len(row.marked), start + len(row) - common
        seen[start:end, start:end] = True
        seen[plain:end, marked:plain] = False
        ids += [*row.prompt[common:], *row.marked, *row.plain]
        for k, (first, answer) in enumerate(((marked, row.marked), (plain, row.plain))):
            at += [marked - 1, *range(first, first + len(answer) - 1)]
            tokens += answer
            answers += [2 * i + k] * len(answer)
            share += [1 / len(answer)] * len(answer)
        positions += [*range(common, length + len(row.marked))]
        positions += [*range(length, length + len(row.plain))]
    blocked = torch.zeros(seen.shape, dtype=dtype)
    blocked = blocked.masked_fill(~seen.tril(), torch.finfo(dtype).min)[None, None]
    each = [[ids], [positions], at, tokens, answers, share]
    one, where, *index = (torch.tensor(numbers, device=device) for numbers in each)
    return Packed(one, where, blocked.to(device), *index)


def _common(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all begin with."""
    places = enumerate(zip(*prompts, strict=False))
    shortest = min(map(len, prompts))
    return next((i for i, tokens in places if len({*tokens}) > 1), shortest)


def together(rows: Sequence[Row]) -> list[list[int]]:
    """Rows that are packed together, in order: as many as `PACKED` tokens hold, at least one."""
    parts: list[list[int]] = []
    room = 0
    for i, row in enumerate(rows):
        if len(row) > room:
            parts.append([])
            room = PACKED
        parts[-1].append(i)
        room -= len(row)
    return parts


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
    for part in together(rows):
        batch = packed([rows[i] for i in part], model.device, model.dtype)
        size = max(1, TOKENS.get(model.device.type, TOKENS_GPU) // batch.ids.numel())
        for layer, chosen in by_layer.items():
            output = _output_of(model, batch, layer)
            for start in range(0, len(chosen), size):
                some = chosen[start : start + size]
                steered = [_changed(hidden(output), interventions[i]) for i in some]
                with _replaying(model, layer, output, torch.cat(steered)):
                    logits = logits_of(model, batch, len(some))
                found[np.ix_(some, part)] = torch.stack([*map(batch.means, logits)]).numpy()
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
    """Output of block `layer` as the block gives it; its states are [1, tokens, width]."""
    kept: list[Any] = []
    block = decoder_blocks(model)[layer]
    handle = block.register_forward_hook(lambda module, args, output: kept.append(output))
    try:
        logits_of(model, batch)
    finally:
        handle.remove()
    return kept[0]


def _changed(states: torch.Tensor, how: Intervention | None) -> torch.Tensor:
    """Output of the steered block [1, tokens, width] under one intervention."""
    if how is None or not how.active:
        return states
    vector = torch.from_numpy(how.vector).to(states.device)
    change = how.coefficient * vector.expand_as(states).float()
    if how.mode == "ablate":
        change = -(states.float() @ vector)[..., None] * vector
    return states + change.to(states.dtype)


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


def logits_of(model: PreTrainedModel, batch: Packed, copies: int = 1) -> torch.Tensor:
    """Logits [copies, answer tokens, words] of a batch that stands there `copies` times."""
    positions = batch.positions.repeat(copies, 1)
    with torch.no_grad():
        logits: torch.Tensor = model(
            input_ids=batch.ids.repeat(copies, 1),
            attention_mask=windowed(model, batch.attention.repeat(copies, 1, 1, 1), positions),
            position_ids=positions,
            logits_to_keep=batch.at,
            use_cache=False,
        ).logits
    return logits
