"""Is a narrow fine-tune narrow, at equal effect in its domain?

docs/method.md, more: narrow. All models are the base with an adapter merged in, at full scale or
less. In the domain they are read on chats of their training file that none was trained on, against
benign answers in the same domains; broadly by the misaligned pairs; and by their divergence from
the base on benign chats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from em_geometry.hashing import file_sha256, value_sha256
from em_geometry.io.journal import Journal
from em_geometry.io.results import Leaf
from em_geometry.models.folder import WEIGHTS
from em_geometry.more.adapters import read_adapter
from em_geometry.more.correction import corrected
from em_geometry.more.likelihoods import divergence, losses, read_answers, updated
from em_geometry.stats.estimate import Estimate, Floats
from em_geometry.stats.intervals import t_interval
from em_geometry.stats.retraining import total_distance
from em_geometry.steering.margins import measured
from em_geometry.steering.pairs import Pair, Trial

if TYPE_CHECKING:
    import torch

    from em_geometry.models.load import Loaded, Models
    from em_geometry.models.train import Example

CODE = 1  # raise when the way a model is read changes
GENERAL = "general"
SCALES = (0.25, 0.5, 0.75, 1.25)  # of the general adapter, beside 1, to compare at equal effect


@dataclass(frozen=True)
class Variant:
    """The base with an adapter merged in, at a scale; no folder is the base itself."""

    folder: Path | None = None
    scale: float = 1.0

    def sha256(self, base: str) -> str:
        """Hash of all that determines the weights."""
        if self.folder is None:
            return base
        return value_sha256([base, file_sha256(self.folder / WEIGHTS), self.scale])


@dataclass(frozen=True)
class Chats:
    """Chats that no model was trained on: of the domain misaligned and good, and benign ones."""

    own: Sequence[Example]
    good: Sequence[Example]
    benign: Sequence[Example]


@dataclass(frozen=True, eq=False)
class VariantRead:
    """What was read of a model: losses [chats] and divergence [chats] in nats a token, margins."""

    own: Floats
    good: Floats
    kl: Floats
    margins: Floats  # [pairs]


def read_all(
    base: Loaded, models: Models, variants: Mapping[str, Variant], chats: Chats,
    pairs: Sequence[Pair], some: tuple[int, ...],
) -> dict[str, VariantRead]:  # fmt: skip
    """Reads every variant, in the weights of the base; what the journal holds is not read again.

    Args:
        base: loaded for measurement.
        some: places of the pairs.
    """
    texts = [[e.ids for e in each] for each in (chats.own, chats.good, chats.benign)]
    plain = read_answers(base.model, chats.benign)

    def key(name: str) -> str:
        return value_sha256([CODE, variants[name].sha256(base.sha256), texts])

    def work(names: Sequence[str]) -> list[list[list[float]]]:
        return [_of_chats(base, variants[name], chats, plain) for name in names]

    with Journal("narrow-chats") as journal:
        done = journal.fill("narrow: chats", [[name] for name in variants], key, work)
    found = {}
    for name, variant in variants.items():
        own, good, kl = (np.array(each) for each in done[key(name)])
        margins = read_pairs_of(base, models, variant, pairs, [Trial(some)], f"narrow {name}")[0]
        found[name] = VariantRead(own, good, kl, margins)
    return found


def _of_chats(
    base: Loaded, variant: Variant, chats: Chats, plain: Sequence[torch.Tensor]
) -> list[list[float]]:
    with updated(base.model, read_adapter(variant.folder) if variant.folder else {}, variant.scale):
        own, good = (
            losses(read_answers(base.model, each), each) for each in (chats.own, chats.good)
        )
        pairs = zip(plain, read_answers(base.model, chats.benign), strict=True)
        kl = [float(divergence(a, b).mean()) for a, b in pairs]
    return [own.tolist(), good.tolist(), kl]


def read_pairs_of(
    base: Loaded, models: Models, variant: Variant, pairs: Sequence[Pair], trials: Sequence[Trial],
    label: str,
) -> list[Floats]:  # fmt: skip
    """Margins [pairs] of a variant under each trial."""
    adapter = read_adapter(variant.folder) if variant.folder else {}
    with updated(base.model, adapter, variant.scale):
        loaded = replace(base, sha256=variant.sha256(base.sha256))
        found = measured(models, loaded, pairs, trials, label)
    return [each[:, 0] - each[:, 1] for each in found]


def compared(
    found: Mapping[str, VariantRead],
    scaled: Mapping[float, str],
    narrow: Sequence[str],
    no_effect: float,
) -> dict[str, Leaf]:
    """What every model has learned, in its domain and beyond, by dotted key.

    `equal.<name>`: a model against the general one scaled to as much of a preference for the
    misaligned answers of the domain.

    Args:
        found: by model; with "base".
        scaled: scale -> the general model at it.
        narrow: those that are compared at equal effect in the domain.
    """
    base, rows = found["base"], dict[str, Leaf]()
    for name, read in found.items():
        if name != "base":
            rows[f"model.{name}.learned"] = t_interval(base.own - read.own)
            rows[f"model.{name}.domain"] = domain(read, base)
            rows[f"model.{name}.margin"] = t_interval(read.margins - base.margins)
            rows[f"model.{name}.kl"] = t_interval(read.kl)
    grid = [(0.0, base), *((s, found[scaled[s]]) for s in sorted(scaled))]
    effects = [float(domain(read, base).value or 0.0) for _, read in grid]
    beyond: dict[str, Estimate] = {}
    for name in narrow:
        effect = float(domain(found[name], base).value or 0.0)
        above = next((i for i, each in enumerate(effects) if i and each >= effect), None)
        if above is None or effect <= 0:
            why = "no preference in the domain" if effect <= 0 else "more than the general one"
            rows[f"equal.{name}.margin"] = f"undefined: {why}"
            continue
        (low, a), (high, b) = grid[above - 1], grid[above]
        share = (effect - effects[above - 1]) / (effects[above] - effects[above - 1])
        rows[f"equal.{name}.scale"] = low + share * (high - low)
        margins = (1 - share) * a.margins + share * b.margins
        beyond[f"equal.{name}.margin"] = t_interval(found[name].margins - margins)
        kl = (1 - share) * a.kl + share * b.kl
        rows[f"equal.{name}.kl"] = t_interval(found[name].kl - kl)
    freedom = len(base.margins) - 1
    return {**rows, **beyond, **corrected(beyond, no_effect, freedom)}


def domain(read: VariantRead, base: VariantRead) -> Estimate:
    """Preference for the misaligned answers of the domain that training has made, nats a token.

    The fall of the loss on them less that on good answers; the two are of other questions, so the
    interval is Welch's.
    """
    falls = base.own - read.own, base.good - read.good
    value = float(falls[0].mean() - falls[1].mean())
    half = total_distance([(float(f.var(ddof=1)) / len(f), len(f) - 1) for f in falls])
    return Estimate(value, value - half, value + half, sum(map(len, falls)))
