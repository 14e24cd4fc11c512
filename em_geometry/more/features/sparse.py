"""Sparse dictionaries of a block's output: what they are, training a small one, how good it is.

docs/method.md: features. A latent of a state x [width] is r(E x + b); the state is read back as
a D + c. Training is that of Gao et al. 2024 (arXiv 2406.04093): so many of the highest latents
count, and what is lost of the state is all that is made small.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch.nn.functional import embedding_bag, normalize

from em_geometry.errors import UserError
from em_geometry.progress import Progress
from em_geometry.stats.estimate import Estimate, Floats
from em_geometry.stats.intervals import jackknife

TIMES, K = 4, 32  # latents for each dimension of the stream; latents of a token that are on
STEPS, BATCH = 500, 512  # three to four passes over 75,000 tokens: minutes on two cores
RATE = 2e-3  # of Adam, falling to 0; states have mean squared length 1, decoder rows length 1
RESEAT = 100  # steps after which latents that nothing has used start anew, but at the end
CHUNK = 1024  # states that are encoded at once


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Latents of one block's output.

    Attributes:
        encoder, decoder: [latents, width]; bias, threshold: [latents]; centre: [width].
        k: so many of the highest count in each state; None = all above their threshold.
        block: at whose output it was made; None = its file does not say.
    """

    encoder: torch.Tensor
    bias: torch.Tensor
    decoder: torch.Tensor
    centre: torch.Tensor
    threshold: torch.Tensor
    k: int | None = None
    block: int | None = None

    def to(self, device: torch.device | str) -> Self:
        """The same on a device."""
        names = ("encoder", "bias", "decoder", "centre", "threshold")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def encode(self, states: torch.Tensor) -> torch.Tensor:
        """Activations [states, latents], 0 where a latent is off, of states [states, width]."""
        found = states @ self.encoder.T + self.bias
        found = torch.where(found > self.threshold, found, 0.0)
        if self.k is None:
            return found
        best = found.topk(min(self.k, found.shape[1]), dim=1)
        return torch.zeros_like(found).scatter_(1, best.indices, best.values)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """States [states, width] read back from activations."""
        return latents @ self.decoder + self.centre

    def encoded(self, states: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Parts of states [states, width] on this dictionary's device, with their activations."""
        for start in range(0, len(states), CHUNK):
            here = states[start : start + CHUNK].to(self.encoder)
            yield here, self.encode(here)


def trained(states: torch.Tensor, seed: int, block: int, device: torch.device) -> Dictionary:
    """A dictionary of states [tokens, width], `TIMES` as many latents as the width.

    Args:
        seed: of the states that begin latents, and of the batches.
    Raises:
        UserError: fewer tokens than latents.
    """
    tokens, width = states.shape
    if tokens < (latents := TIMES * width):
        raise UserError(
            "too few tokens to train a dictionary on", where="the texts of the run",
            found=f"{tokens} tokens", expected=f"at least {latents}, {TIMES} times the width",
            hint="name a published one in more.dictionary, or give more training texts",
        )  # fmt: skip
    draw = torch.Generator().manual_seed(seed % 2**63)
    mean = states.mean(0)
    scale = (states - mean).square().sum(1).mean().sqrt()

    def at(rows: torch.Tensor) -> torch.Tensor:
        return ((states[rows] - mean) / scale).to(device)

    def some(count: int) -> torch.Tensor:
        return at(torch.randint(tokens, (count,), generator=draw))

    # Each latent begins at another token: two that begin alike would stay alike.
    begins = normalize(at(torch.randperm(tokens, generator=draw)[:latents]), dim=1)
    start = _of_size(begins, some(BATCH)), torch.zeros(latents), begins, torch.zeros(width)
    parts = [torch.nn.Parameter(part.to(device)) for part in start]
    with torch.enable_grad():
        _descend(parts, some, draw, f"dictionary of block {block}")
    encoder, bias, decoder, centre = (part.detach().cpu() for part in parts)
    encoder = encoder / scale
    bias, centre = bias - encoder @ mean, mean + centre * scale
    none, k = torch.zeros(latents), min(K, latents)
    return Dictionary(encoder, bias, decoder * scale, centre, none, k, block)


def _of_size(rows: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Decoder rows as encoder, at the length that reads states back best.

    Rows that are alike add up: as long as the decoder's they would begin far beyond the states.
    """
    best = (states @ rows.T).relu().topk(min(K, len(rows)), dim=1)
    back = embedding_bag(best.indices, rows, mode="sum", per_sample_weights=best.values)
    return rows * (states * back).sum() / back.square().sum()


def _descend(
    parts: list[torch.nn.Parameter],
    some: Callable[[int], torch.Tensor],
    draw: torch.Generator,
    label: str,
) -> None:
    """Fits encoder, bias, decoder (rows of length 1) and centre in place."""
    encoder, bias, decoder, centre = parts
    adam, used = torch.optim.Adam(parts, lr=RATE), torch.zeros(len(bias), dtype=torch.bool)
    with Progress(label, STEPS, unit="steps") as progress:
        for step in range(STEPS):
            adam.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
            states = some(BATCH)
            best = (states @ encoder.T + bias).relu().topk(min(K, len(bias)), dim=1)
            back = embedding_bag(best.indices, decoder, mode="sum", per_sample_weights=best.values)
            lost = states - back - centre
            adam.zero_grad()
            lost.square().sum(1).mean().backward()  # type: ignore[no-untyped-call]
            adam.step()
            with torch.no_grad():
                decoder.copy_(normalize(decoder, dim=1))
                used[best.indices[best.values > 0].cpu()] = True
                if (step + 1) % RESEAT == 0 and step + 1 < STEPS:
                    _reseat(parts, adam, lost.detach(), (~used).nonzero()[:, 0], draw)
                    used[:] = False
            progress.advance()


def _reseat(
    parts: list[torch.nn.Parameter],
    adam: torch.optim.Adam,
    lost: torch.Tensor,
    idle: torch.Tensor,
    draw: torch.Generator,
) -> None:
    """Points latents that nothing has used at what is lost, the more is lost the likelier."""
    weights = lost.square().sum(1).cpu()
    idle = idle[: int((weights > 0).sum())].to(lost.device)
    if not len(idle):
        return
    rows = torch.multinomial(weights, len(idle), generator=draw).to(lost.device)
    encoder, bias, decoder, _ = parts
    encoder[idle] = decoder[idle] = normalize(lost[rows], dim=1)
    bias[idle] = 0.0
    for part in (encoder, bias, decoder):
        for name in ("exp_avg", "exp_avg_sq"):
            adam.state[part][name][idle] = 0.0


def quality(
    found: Dictionary, states: torch.Tensor, topics: Sequence[str]
) -> tuple[Estimate, Estimate]:
    """Share of the variance of states [tokens, width] that is read back, and latents on at once.

    Intervals are jackknifed over topics [tokens].
    """
    mean, sums = states.mean(0).to(found.encoder), []
    for part, latents in found.encoded(states):
        lost = (part - found.decode(latents)).square().sum(1)
        each = (lost, (part - mean).square().sum(1), (latents > 0).sum(1), torch.ones_like(lost))
        sums.append(torch.stack([one.double().cpu() for one in each]).numpy())
    names, codes = np.unique(topics, return_inverse=True)
    each_topic = np.stack([np.bincount(codes, row) for row in np.concatenate(sums, axis=1)])
    whole = each_topic.sum(1, keepdims=True)
    lost, total, on, tokens = np.concatenate([whole, whole - each_topic], axis=1)
    explained, alive = 1 - lost / np.maximum(total, 1e-30), on / np.maximum(tokens, 1)
    if len(names) < 2:
        return Estimate(float(explained[0]), n=1), Estimate(float(alive[0]), n=1)
    return jackknife(explained[0], explained[1:]), jackknife(alive[0], alive[1:])


def nearest(rows: Floats, others: Floats) -> Floats:
    """Highest cosine of each row [n, width] with any of the others [m, width]."""
    first, second = unit(rows), unit(others)
    return np.concatenate([(part @ second.T).max(1) for part in blocks(first)])


def unit(rows: Floats) -> Floats:
    """Rows of length 1; rows of zeros stay."""
    found: Floats = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-30)
    return found


def blocks(rows: Floats) -> list[Floats]:
    """Rows in parts whose products with all latents fit the memory."""
    return [rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)]
