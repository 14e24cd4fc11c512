"""What vectors rest on: rows of activations, and the choices that were made (docs/method.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from em_geometry.activations.prompts import TEXTS
from em_geometry.errors import UserError
from em_geometry.geometry.calibration import Evidence
from em_geometry.geometry.choices import LAYER, NO_MASSIVE, PER_MODEL, massive_dimensions
from em_geometry.geometry.samples import PromptRows
from em_geometry.settings import BASE, Organism
from em_geometry.stats.arrays import Floats, Ints
from em_geometry.steering.conditions import Selected
from em_geometry.vectors.contrasts import (
    OF_ANSWERS,
    OF_TEXTS,
    Array,
    VectorTable,
    prompt_span,
    recipe_controls,
)

if TYPE_CHECKING:
    import polars as pl

FALLBACK = "model_contrast"
PAIRED = ("prompt_contrast", "interaction")  # rows are harmful minus neutral of a pair
AGAINST = (FALLBACK, "control_contrast", "interaction")  # rows subtract another model


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
    controls: Mapping[str, str] | None = None,
) -> PromptRows:
    """Difference rows of models at their blocks, by prompt or pair of prompts.

    Args:
        prompts: of the activations, with columns kind, topic and pair.
        contrast: of prompts.
        blocks: model -> block.
        controls: organism -> what its control contrast subtracts; others subtract the base.
    """
    topics = _topics(prompts)
    rows = _against(activations, contrast, span, blocks, controls or {})
    if contrast not in PAIRED:
        return PromptRows(rows, topics)
    harmful, neutral = pair_rows(prompts["kind"].to_list(), prompts["pair"].to_list())
    return PromptRows(rows[:, harmful] - rows[:, neutral], [topics[i] for i in harmful])


def text_rows(
    activations: Activations,
    texts: pl.DataFrame,
    contrast: str,
    blocks: Mapping[str, int],
    controls: Mapping[str, str],
    files: Mapping[str, str],
) -> PromptRows:
    """Difference rows of models at their blocks on `answer_mean`: a text is a row, a file a topic.

    Of the contrast of texts, row k is text k of the model's file minus text k of its control's, as
    the base reads them, and each row is a topic.

    Args:
        texts: of the activations, with column topic.
        blocks: model -> block.
        controls: model -> its control, for the contrasts with controls and of texts.
        files: model -> its training file.
    """
    topics = _topics(texts)
    if contrast != OF_TEXTS:
        return PromptRows(_against(activations, contrast, TEXTS, blocks, controls), topics)
    of, base, rows = np.array(topics), activations(BASE, TEXTS), []
    for slug, block in blocks.items():
        own, other = (of == files[m] for m in (slug, _control(slug, controls)))
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


def _control(slug: str, controls: Mapping[str, str]) -> str:
    """What a model's contrasts with controls subtract: the base where none is known."""
    control = controls.get(slug, BASE)
    if control.startswith("undefined"):
        raise UserError(
            "an organism has no control of its own recipe to subtract",
            where="params.yaml: vectors.contrast",
            found=f"{slug}: {control}",
            expected="a control of the same lab, or another contrast",
        )
    return control


def _against(
    activations: Activations,
    contrast: str,
    span: str,
    blocks: Mapping[str, int],
    controls: Mapping[str, str],
) -> Floats:
    """Rows [models, rows, width], less those of what the contrast subtracts, if anything."""

    def at(model: str, block: int) -> Floats:
        return activations(model, span)[:, block].astype(np.float64)

    def rows_of(slug: str, block: int) -> Floats:
        if contrast not in AGAINST:
            return at(slug, block)
        other = _control(slug, controls) if contrast == "control_contrast" else BASE
        return at(slug, block) - at(other, block)

    return np.stack([rows_of(slug, block) for slug, block in blocks.items()])


def evidence(
    activations: Activations,
    prompts: pl.DataFrame,
    texts: pl.DataFrame,
    selected: Mapping[str, Selected],
    organisms: Mapping[str, Organism],
    spans: Sequence[str],
    massive_share: float,
) -> tuple[Evidence, str, str]:
    """What lies behind the vectors of organisms and controls, with the contrast and span.

    The contrast of answers (c) cannot be drawn again, because models share no answers: the
    organism-base contrast at the same blocks is calibrated instead, and named. Controls are read
    against the base.

    Args:
        prompts, texts: rows of the activations, the latter of those on `answer_mean`.
        organisms: organisms and controls, no repeats.
        spans: of prompts, as captured.
        massive_share: share of the width dropped as massive-activation dimensions.
    """
    names = [slug for slug, o in organisms.items() if o.role == "organism"]
    clusters: dict[str, list[str]] = {}
    for name in names:
        clusters.setdefault(str(organisms[name].cluster), []).append(name)
    own = {name: selected[name].layer for name in names}
    middle, how = int(np.median(list(own.values()))), selected[names[0]]
    contrast = FALLBACK if how.contrast == OF_ANSWERS else how.contrast
    span, controls = prompt_span(how.span, [*spans, TEXTS]), recipe_controls(organisms)
    benign = {slug: middle for slug in organisms if slug not in names and contrast != OF_TEXTS}

    def rows(blocks: Mapping[str, int], controls: Mapping[str, str]) -> PromptRows:
        if span == TEXTS:
            files = {slug: o.data for slug, o in organisms.items()}
            return text_rows(activations, texts, contrast, blocks, controls, files)
        return prompt_rows(activations, prompts, contrast, span, blocks, controls)

    sample = rows(own, controls)
    others = rows(benign, {}).vectors if benign else np.empty((0, how.vector.size))
    base = activations(BASE, span)[:, middle].astype(np.float64)
    massive = massive_dimensions(base, massive_share)
    return Evidence(names, clusters, sample, others, massive), contrast, span


def every_choice(
    table: VectorTable,
    selected: Mapping[str, Selected],
    own: Mapping[str, int],
    massive: Sequence[int] | Ints,
) -> dict[str, Floats | str]:
    """Vectors [n, width] of the selected organisms under each choice, or why there are none.

    Keys are `<contrast>.<span>` at the selected blocks, each block's number for the selected
    contrast (`layer.<l>`), each model at its own best block (`per_model`), and `without_massive`.

    Args:
        own: organism -> the block that is best for it alone.
        massive: dimensions that are left out in the last choice.
    """
    how = next(iter(selected.values()))
    chosen, layers = f"{how.contrast}.{how.span}", {m: s.layer for m, s in selected.items()}

    def at(choice: str, blocks: Mapping[str, int]) -> Floats | str:
        return table.missing(choice, blocks) or table.at(choice, blocks)

    found = {choice: at(choice, layers) for choice in sorted(table.raw)}
    for block in range(len(table.residual)):
        found[f"{LAYER}{block}"] = at(chosen, dict.fromkeys(layers, block))
    found[PER_MODEL] = at(chosen, own)
    unit = np.stack([s.vector for s in selected.values()]).astype(np.float64)
    found[NO_MASSIVE] = np.delete(unit, massive, axis=1)
    return found
