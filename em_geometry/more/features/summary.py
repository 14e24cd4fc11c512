"""What the latents of all organisms say together, and the table of those at the top."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from em_geometry.errors import UserError
from em_geometry.io.results import Leaf
from em_geometry.more.features.latents import (
    Read,
    Reader,
    Space,
    adjusted,
    by_activation,
    by_direction,
    overlap,
    overlap_of_random,
    top,
    verdicts,
)  # fmt: skip
from em_geometry.more.features.sparse import Dictionary, unit
from em_geometry.settings import BASE
from em_geometry.settings import Organism as Listed
from em_geometry.stats.estimate import Floats
from em_geometry.stats.intervals import proportion, t_interval
from em_geometry.vectors.contrasts import VectorTable, recipe_controls

COSINE, CHANGE = "cosine", "change"  # the two ways to rank latents
STABLE = 0.7  # cosine from which a latent counts as found again by the twin
Tops = Mapping[tuple[str, str], Sequence[int]]  # organism and way -> latents, the highest first


@dataclass(frozen=True, eq=False)
class Organism:
    """An organism and the benign control of its recipe (the base where there is none).

    Attributes:
        vector: [width] its steering vector at the block.
        differences: [texts, width] whose mean that is; None = of another contrast.
    """

    own: Read
    control: Read
    vector: Floats
    differences: Floats | None


def vectors_at(
    table: VectorTable, choice: str, names: Sequence[str], block: int
) -> dict[str, Floats]:
    """Every organism's vector [width] at a block; UserError where one is not defined there."""
    at = dict.fromkeys(names, block)
    if why := table.missing(choice, at):
        what, hint = "no vectors at the dictionary's block", "another more.dictionary_block"
        where = f"vectors.safetensors: {choice}, block {block}"
        raise UserError(what, where=where, found=why, hint=hint)
    return dict(zip(names, table.at(choice, at), strict=True))


def organism(
    read: Reader,
    slug: str,
    organisms: Mapping[str, Listed],
    vector: Floats,
    contrast: str | None,
) -> Organism:
    """An organism as it was read; `contrast` says what its vector is the mean of, where known."""
    control = recipe_controls(organisms)[slug]
    own, base = read(slug, None), read(BASE, None)
    other = read(control, None) if control in organisms else base
    against = {"control_contrast": other, "model_contrast": base}.get(contrast or "")
    return Organism(own, other, vector, own.states - against.states if against else None)


def compared(
    space: Space, organisms: Mapping[str, Organism]
) -> tuple[dict[str, Leaf], dict[tuple[str, str], list[int]]]:
    """Results by dotted key, and the top latents of every organism in both ways."""
    found: dict[str, Leaf] = {}
    tops: dict[tuple[str, str], list[int]] = {}
    cosines, changes = {}, {}
    for slug, each in organisms.items():
        _, cosines[slug] = by_direction(space, each.vector, each.differences)
        _, changes[slug] = by_activation(space, each.own, each.control)
        for way, told in ((COSINE, cosines[slug]), (CHANGE, changes[slug])):
            found |= {f"organism.{slug}.{way}.{k}".rstrip("."): leaf for k, leaf in told.items()}
        tops[slug, COSINE] = top(space.directions @ unit(each.vector))
        mean = space.by_topic(space.weights(each.own, each.control)).mean(0)
        tops[slug, CHANGE] = top(np.abs(mean))
    over_all = adjusted(cosines) | verdicts(changes)
    found |= {f"organism.{key}": leaf for key, leaf in over_all.items()}
    moved = [space.moved(each.own) for each in organisms.values()]
    moved += [space.moved(each) for each in space.benign.values()]
    shared = {
        CHANGE: overlap([top(np.abs(each)) for each in moved], len(organisms), space.rng),
        COSINE: overlap_of_random([tops[m, COSINE] for m in organisms], space.random[1]),
    }
    for way, told in shared.items():
        found |= {f"overlap.{way}.{k}".rstrip("."): leaf for k, leaf in told.items()}
    return found, tops


def at_the_top(
    tops: Tops, share: Floats, stability: Floats | None, texts: Mapping[int, Sequence[str]]
) -> dict[str, Leaf]:
    """What stands in the report beside each organism's first latent, in both ways."""
    found: dict[str, Leaf] = {}
    for (slug, way), (first, *_) in tops.items():
        key = f"organism.{slug}.{way}"
        found[f"{key}.tokens_pct"] = float(100 * share[first])
        if stability is not None:
            found[f"{key}.stability"] = float(stability[first])
        found[f"{key}.text"] = " / ".join(texts.get(first, ())) or "on in no other text"
    return found


def table(
    space: Space,
    organisms: Mapping[str, Organism],
    tops: Tops,
    share: Floats,
    stability: Floats | None,
    texts: Mapping[int, Sequence[str]],
) -> pl.DataFrame:
    """A row for each of the top latents of each organism.

    Args:
        share: [latents] of tokens at which each is on.
        stability: [latents] highest cosine with a latent of the twin; None without one.
        texts: latent -> excerpts where it peaks.
    """
    rows = []
    for (slug, way), latents in tops.items():
        each = organisms[slug]
        cosines = space.directions @ unit(each.vector)
        change = space.by_topic(space.weights(each.own, each.control)).mean(0)
        for place, latent in enumerate(latents, start=1):
            numbers = cosines[latent], change[latent], space.shifts.mean(0)[latent], share[latent]
            twin = None if stability is None else float(stability[latent])
            shown = [*texts.get(latent, ()), None, None, None][:3]
            rows.append((slug, way, place, latent, *map(float, numbers), twin, *shown))
    columns = {
        "organism": pl.String, "ranked_by": pl.String, "rank": pl.Int64, "latent": pl.Int64,
        "cosine": pl.Float64, "change": pl.Float64, "benign_mean": pl.Float64,
        "share_of_tokens": pl.Float64, "stability": pl.Float64,
        "text_1": pl.String, "text_2": pl.String, "text_3": pl.String,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=columns, orient="row")


def of_dictionary(
    dictionary: Dictionary,
    share: Floats,
    stability: Floats | None,
    random: Floats,
    tokens: int,
) -> dict[str, Leaf]:
    """Latents in all, dead ones (on at no token), and how stable the living ones are.

    Stability is a latent's highest cosine with any of a dictionary from another seed; beside it
    that of random directions [draws] with the states' covariance.
    """
    alive = share > 0
    found: dict[str, Leaf] = {
        "dictionary.latents": len(share),
        "dictionary.k": dictionary.k or "no fixed number on at once",
        "dictionary.tokens": tokens,
        "dictionary.dead_pct": proportion(int((~alive).sum()), len(alive)),
    }
    if stability is None or not alive.any():
        return found | {"dictionary.stability": "not measured: one dictionary was given"}
    again = stability[alive] > STABLE
    return found | {
        "dictionary.stability": t_interval(stability[alive]),
        "dictionary.stability.random": t_interval(random),
        "dictionary.stable_pct": proportion(int(again.sum()), len(again)),
    }
