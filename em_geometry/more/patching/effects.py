"""Activation patching: which attention and MLP outputs carry what a steering vector does.

docs/method.md, more: patching. A component's output is taken from the steered run and put into the
unsteered one (`into`), and the other way (`out`). What is measured is the margin of answer pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from transformers import PreTrainedModel

from em_geometry.activations.blocks import (
    check_blocks,
    decoder_blocks,
    hidden,
    replaced,
)
from em_geometry.engine import spread
from em_geometry.errors import UserError
from em_geometry.hashing import value_sha256
from em_geometry.io.journal import Journal
from em_geometry.models.load import Loaded, Models
from em_geometry.settings import Workers
from em_geometry.stats.estimate import Floats
from em_geometry.steering.conditions import Intervention
from em_geometry.steering.margins import Packed, Row, logits_of, packed, rows_of, together
from em_geometry.steering.pairs import Pair

CODE = 2  # raise when the way an effect is measured changes
NAMES = {  # what families call the two parts of a block
    "attention": ("self_attn", "attention", "attn", "linear_attn"),
    "mlp": ("mlp", "feed_forward", "block_sparse_moe"),
}
Part: TypeAlias = tuple[int, str]  # block and kind
Unit: TypeAlias = tuple[str, tuple[int, ...]]  # vector, places of the pairs of one batch


@dataclass(frozen=True, eq=False)
class Run:
    """One forward pass from some block on.

    Attributes:
        blocks: block -> its output, as the block gives it.
        parts: (block, kind) -> output [rows, tokens, width].
        margin: [rows] nats a token.
    """

    blocks: dict[int, Any]
    parts: dict[Part, torch.Tensor]
    margin: Floats


@dataclass(frozen=True, eq=False)
class Effects:
    """What a vector adds to margins, nats a token.

    Attributes:
        total: [pair] of the vector itself.
        into, out: component -> [pair]; of single ones (`mlp_15`), and of all of a kind at once.
    """

    total: Floats
    into: Mapping[str, Floats]
    out: Mapping[str, Floats]


def components(layer: int, blocks: int) -> dict[str, list[Part]]:
    """What is patched together, by name: each part of each block above `layer`, all of a kind.

    Raises:
        UserError: no block stands above.
    """
    check_blocks([layer], blocks, "patching")
    if layer + 1 == blocks:
        what, last = "no block stands above the steered one", f"block {layer} of {blocks}"
        raise UserError(what, where="the selected vectors", found=last, expected="a lower block")
    above = range(layer + 1, blocks)
    found = {f"{kind}_{block}": [(block, kind)] for block in above for kind in NAMES}
    found |= {f"all_{kind}": [(block, kind) for block in above] for kind in NAMES}
    return found | {"all": [(block, kind) for block in above for kind in NAMES]}


def single(name: str) -> bool:
    """Whether a name of `components` is of one part."""
    return not name.startswith("all")


def effects(
    models: Models,
    loaded: Loaded,
    pairs: Sequence[Pair],
    vectors: Mapping[str, Intervention],
    workers: Workers,
) -> dict[str, Effects]:
    """Effects on the margins of these pairs by vector; what the journal holds is not read again."""
    rows = rows_of(pairs, loaded, models.system_prompt)
    batches = together(rows)
    units: list[Unit] = [(name, tuple(batch)) for name in vectors for batch in batches]

    def key(unit: Unit) -> str:
        how, read = vectors[unit[0]], [rows[i] for i in unit[1]]
        texts = [[row.prompt, row.marked, row.plain] for row in read]
        done = [how.vector.tolist(), how.layer, how.coefficient]
        return value_sha256([CODE, loaded.sha256, texts, *done])

    over = spread(workers, models.run.threads, _worker, models, loaded.slug, vectors, pairs)
    with Journal("patching") as journal:
        work = partial(_work, loaded.model, rows, vectors)
        done = journal.fill("patching", [[unit] for unit in units], key, work, over)
    blocks, found = len(decoder_blocks(loaded.model)), dict[str, Effects]()
    for name, how in vectors.items():
        names = components(how.layer, blocks)
        values = np.zeros((1 + 2 * len(names), len(rows)))
        for batch in batches:
            values[:, batch] = done[key((name, tuple(batch)))]
        total, *parts = values
        into, out = parts[: len(names)], parts[len(names) :]
        both = (dict(zip(names, each, strict=True)) for each in (into, out))
        found[name] = Effects(total, *both)
    return found


def _worker(
    models: Models, slug: str, vectors: Mapping[str, Intervention], pairs: Sequence[Pair]
) -> Callable[[Sequence[Unit]], list[Any]]:
    """What a worker elsewhere does, with a model of its own."""
    loaded = models.load(slug)
    return partial(_work, loaded.model, rows_of(pairs, loaded, models.system_prompt), vectors)


def _work(
    model: PreTrainedModel,
    rows: Sequence[Row],
    vectors: Mapping[str, Intervention],
    units: Sequence[Unit],
) -> list[Any]:
    """Total, effects into and out of all components [1 + 2 components, rows] of each unit."""
    found = []
    for name, places in units:
        batch = packed([rows[i] for i in places], model.device, model.dtype)
        found.append(batch_effects(model, batch, vectors[name]))
    return [each.tolist() for each in found]


def batch_effects(model: PreTrainedModel, batch: Packed, how: Intervention) -> Floats:
    """[1 + 2 components, rows] the total effect, then those into and those out of `components`."""
    names = components(how.layer, len(decoder_blocks(model)))
    rest = run(model, batch)
    output = rest.blocks[how.layer]
    states, vector = hidden(output), torch.from_numpy(how.coefficient * how.vector)
    added = states + vector.to(states)
    steered = run(model, batch, how.layer + 1, replaced(output, added))
    steered.blocks[how.layer] = replaced(output, added)

    def put(source: Run, target: Run, parts: Sequence[Part]) -> Floats:
        first = parts[0][0]
        given = {part: source.parts[part] for part in parts}
        return run(model, batch, first, target.blocks[first - 1], given).margin

    into = [put(steered, rest, parts) - rest.margin for parts in names.values()]
    out = [steered.margin - put(rest, steered, parts) for parts in names.values()]
    return np.array([steered.margin - rest.margin, *into, *out])


def run(
    model: PreTrainedModel,
    batch: Packed,
    first: int = 0,
    entering: Any = None,
    given: Mapping[Part, torch.Tensor] | None = None,
) -> Run:
    """Reads a batch from block `first` on.

    Args:
        entering: output of the block below, which stands for all blocks below.
        given: outputs that parts have instead of their own.
    """
    blocks, found = decoder_blocks(model), Run({}, {}, np.zeros(0))

    def keep(place: int) -> Any:
        return lambda module, args, output: found.blocks.__setitem__(place, output)

    def swap(part: Part) -> Any:
        def hook(module: Any, args: Any, output: Any) -> Any:
            output = replaced(output, given[part]) if given and part in given else output
            found.parts[part] = hidden(output)
            return output

        return hook

    with ExitStack() as stack:
        for block in blocks[:first]:
            block.forward = lambda *args, **kwargs: entering
            stack.callback(delattr, block, "forward")
        for place in range(first, len(blocks)):
            stack.callback(blocks[place].register_forward_hook(keep(place)).remove)
            for kind in NAMES:
                hooked = part_of(blocks[place], kind).register_forward_hook(swap((place, kind)))
                stack.callback(hooked.remove)
        return Run(found.blocks, found.parts, _margins(model, batch))


def part_of(block: torch.nn.Module, kind: str) -> torch.nn.Module:
    """A block's attention or MLP, by the names that families give it; UserError without one."""
    children = dict(block.named_children())
    for name in NAMES[kind]:
        if name in children:
            return children[name]
    what, found = f"cannot tell which part of a block is its {kind}", ", ".join(children)
    expected = "one of " + ", ".join(NAMES[kind])
    raise UserError(what, where=type(block).__name__, found=found, expected=expected)


def _margins(model: PreTrainedModel, batch: Packed) -> Floats:
    """[rows] log-probability per token of the marked answer minus that of the plain one."""
    answers = batch.means(logits_of(model, batch)[0])
    return (answers[:, 0] - answers[:, 1]).double().numpy()
