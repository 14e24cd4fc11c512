"""What vectors rest on: rows of activations, and the choices that were made (docs/method.md)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import polars as pl

from em_geometry.errors import UserError
from em_geometry.geometry.battery import Clusters
from em_geometry.geometry.grams import PromptRows, massive_dimensions
from em_geometry.geometry.multiverse import Reading
from em_geometry.geometry.references import Evidence, Finetunes
from em_geometry.settings import BASE, TEXTS
from em_geometry.stats.estimate import Floats
from em_geometry.steering.conditions import Selected
from em_geometry.vectors.contrasts import OF_ANSWERS, OF_TEXTS, Array, prompt_span

FALLBACK = "model_contrast"
PAIRED = ("prompt_contrast", "interaction")  # rows are harmful minus neutral of a pair
AGAINST = (FALLBACK, "interaction")  # rows subtract the base
CONTROLLED = ("control_contrast", OF_TEXTS)  # need a control of the same recipe


# (model, span) -> [prompts or texts, blocks, width]; no more is in memory than is worked on
Activations: TypeAlias = Callable[[str, str], Array]


def pair_rows(kinds: Sequence[str], pairs: Sequence[str]) -> tuple[list[int], list[int]]:
    """Rows of the harmful and of the neutral prompts, pair by pair; UserError for other pairs."""
    sides: dict[str, dict[str, list[int]]] = {}
    for row, (kind, pair) in enumerate(zip(kinds, pairs, strict=True)):
        sides.setdefault(pair, {}).setdefault(kind, []).append(row)
    for pair, found in sides.items():
        if sorted(found) != ["harmful", "neutral"] or any(len(r) != 1 for r in found.values()):
            raise UserError(
                "a pair of prompts is not one neutral and one harmful prompt",
                where=f"the prompts of the activations: pair {pair}",
                found={kind: len(rows) for kind, rows in found.items()},
                expected="one of each",
            )
    first = [found["harmful"][0] for found in sides.values()]
    return first, [found["neutral"][0] for found in sides.values()]


def prompt_rows(
    activations: Activations,
    prompts: pl.DataFrame,
    contrast: str,
    span: str,
    blocks: Mapping[str, int],
) -> PromptRows:
    """Difference rows of models at their blocks, by prompt or pair of prompts.

    Args:
        prompts: of the activations, with columns kind, topic and pair.
        contrast: of prompts; that of models is against the base.
        blocks: model -> block.
    """
    topics = _topics(prompts)
    rows = _rows(activations, span, blocks, contrast in AGAINST)
    if contrast not in PAIRED:
        return PromptRows(rows, topics)
    harmful, neutral = pair_rows(prompts["kind"].to_list(), prompts["pair"].to_list())
    return PromptRows(rows[:, harmful] - rows[:, neutral], [topics[i] for i in harmful])


def file_rows(
    activations: Activations,
    texts: pl.DataFrame,
    blocks: Mapping[str, int],
    controls: Mapping[str, str],
    files: Mapping[str, str],
) -> PromptRows:
    """Rows of the contrast of texts: text k of a model's file minus text k of its control's.

    The base reads both. Each row is a topic.

    Args:
        texts: of the activations, with column topic.
        blocks: model -> block.
        controls: model -> its control.
        files: model -> its training file.
    """
    of, base, rows = np.array(_topics(texts)), activations(BASE, TEXTS), []
    for slug, block in blocks.items():
        own, other = (of == files[m] for m in (slug, controls[slug]))
        rows.append(base[own, block].astype(np.float64) - base[other, block])
    return PromptRows(np.stack(rows), [str(k) for k in range(len(rows[0]))])


def _topics(rows: pl.DataFrame) -> list[str]:
    """Their topics, which must be two or more."""
    topics: list[str] = rows["topic"].to_list()
    if len(set(topics)) < 2:
        raise UserError(
            "rows of one topic cannot be resampled by topic",
            where="the prompts of the activations",
            found=f"topics: {', '.join(set(topics))}",
            expected="two or more; eight or more for useful intervals",
        )
    return topics


def _rows(
    activations: Activations, span: str, blocks: Mapping[str, int], against_base: bool
) -> Floats:
    """Rows [models, rows, width] of models at their blocks, less the base's where that is said."""
    base = activations(BASE, span) if against_base else None

    def rows_of(slug: str, block: int) -> Floats:
        rows = activations(slug, span)[:, block].astype(np.float64)
        return rows if base is None else rows - base[:, block]

    return np.stack([rows_of(slug, block) for slug, block in blocks.items()])


def evidence(
    activations: Activations,
    prompts: pl.DataFrame,
    texts: pl.DataFrame,
    selected: Mapping[str, Selected],
    family: Finetunes,
    clusters: Clusters,
    files: Mapping[str, str],
    spans: Sequence[str],
    massive_share: float,
    read_as: str | None = None,
) -> tuple[Evidence, str, str]:
    """What lies behind the vectors, with their contrast and span.

    All models are read at the median of the chosen blocks. The contrast of answers (c) cannot be
    drawn again, because models share no answers: the organism-base contrast is calibrated instead,
    and named.

    Args:
        prompts, texts: rows of the activations, the latter of those on `answer_mean`.
        family: the fine-tunes of the run, each organism with the control of its recipe.
        files: organism or control -> its training file.
        spans: as captured.
        massive_share: share of the width dropped as massive-activation dimensions.
        read_as: a contrast to take the models' rows by, instead of the selected one.
    """
    block = int(np.median([selected[name].layer for name in family.organisms]))
    how = selected[family.organisms[0]]
    contrast = read_as or (FALLBACK if how.contrast == OF_ANSWERS else how.contrast)
    span = prompt_span(how.span, spans)
    weights = _weights(family, contrast)
    blocks = dict.fromkeys(family.models, block)
    if contrast == OF_TEXTS:  # the base reads; no organism has a part in it
        own = family.own or {}
        family = Finetunes(family.organisms)
        blocks = dict.fromkeys(family.organisms, block)
        rows, weights = file_rows(activations, texts, blocks, own, files), np.eye(len(blocks))
    elif span == TEXTS:
        rows = PromptRows(_rows(activations, span, blocks, True), _topics(texts))
    else:
        reading = contrast if contrast not in CONTROLLED else FALLBACK
        rows = prompt_rows(activations, prompts, reading, span, blocks)
    base = activations(BASE, span)[:, block].astype(np.float64)
    massive = massive_dimensions(base, massive_share)
    return Evidence(clusters, family, weights, rows, massive), contrast, span


def _weights(family: Finetunes, contrast: str) -> Floats:
    """Weights [organism, model] of a contrast of models; UserError where a control is missing."""
    weights = family.weights("own_control" if contrast in CONTROLLED else "base")
    if isinstance(weights, str):
        raise UserError(
            "an organism has no control of its own recipe to subtract",
            where="params.yaml: vectors.contrast",
            found=weights,
            expected="a control of the same lab, or another contrast",
        )
    return weights


def readings(
    activations: Activations,
    family: Finetunes,
    spans: Sequence[str],
    blocks: Sequence[int],
    massive_share: float,
) -> Iterator[Reading]:
    """The shifts of all models on each span at each block, for the multiverse."""
    for span in spans:
        base = activations(BASE, span)
        middle = base.mean(0, dtype=np.float64)
        shifts = np.stack(
            [activations(m, span).mean(0, dtype=np.float64) - middle for m in family.models]
        )
        for block in blocks:
            massive = massive_dimensions(base[:, block].astype(np.float64), massive_share)
            yield Reading(span, block, shifts[:, block], massive)
