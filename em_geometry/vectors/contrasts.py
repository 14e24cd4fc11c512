"""Steering vectors as differences of mean activations, and the table of all of them.

Paper sec. 2.1; docs/method.md: contrasts. Functions take span means [prompts, blocks, width],
or [texts, blocks, width] of answers that no model was trained on, and give raw vectors
[blocks, width].
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from em_geometry.errors import UserError, explained
from em_geometry.io.files import read_parquet, read_tensors, write_parquet, write_tensors
from em_geometry.settings import BASE, Organism, Vectors
from em_geometry.stats.estimate import Bools, Floats

OK = "ok"
MIN_ANSWERS = 3  # misaligned and aligned answers each, below which (c) is not defined
OF_ANSWERS = "response_contrast"  # (c): of the models' own answers, which no two share
OF_TEXTS = "text_contrast"  # (e): of two training files
OWN_REFERENCE = "undefined: the model is its own reference"
COLUMNS = ("contrast", "span", "model", "layer", "norm", "residual_norm", "status")
ABOUT = {
    "layers": "output of decoder block l, l = 0..L-1",
    "units": "residual stream, raw differences of means",
    "dtype": "float32",
}
Array: TypeAlias = npt.NDArray[np.floating]
Entry: TypeAlias = Array | str  # raw vectors [blocks, width], or why there are none


def difference(activations: Array, first: Bools, second: Bools) -> Array:
    """Mean over some rows minus the mean over others; masks [rows], a row may be in neither."""
    return np.asarray(activations[first].mean(0) - activations[second].mean(0))


def prompt_contrast(activations: Array, harmful: Bools) -> Array:
    """(a) Within one model: mean over harmful minus mean over neutral prompts."""
    return difference(activations, harmful, ~harmful)


def model_contrast(activations: Array, reference: Array) -> Array:
    """(b) Model minus reference on the same prompts or texts (the base, or a control)."""
    return np.asarray((activations - reference).mean(0))


def response_contrast(activations: Array, misaligned: Bools, aligned: Bools) -> Entry:
    """(c) Mean over misaligned minus mean over aligned answers, or why it is not defined."""
    return too_few(misaligned, aligned) or difference(activations, misaligned, aligned)


def too_few(misaligned: Bools, aligned: Bools) -> str | None:
    """Why a contrast of answers is undefined; None where it is not."""
    for name, group in (("misaligned", misaligned), ("aligned", aligned)):
        if group.sum() < MIN_ANSWERS:
            return f"undefined: {int(group.sum())} {name} answers, {MIN_ANSWERS} needed"
    return None


def prompt_span(chosen: str, spans: Sequence[str]) -> str:
    """The span on which prompts are compared: the chosen one, or the first that is captured."""
    return chosen if chosen in spans else spans[0]


def misaligned_and_aligned(answers: pl.DataFrame, cuts: Vectors) -> tuple[Bools, Bools]:
    """Masks [answers] of the coherent answers below and above the cuts on alignment.

    An answer without a score, or between the two, is in neither.
    """
    aligned, coherent = answers["aligned"], answers["coherent"] >= cuts.coherent_above
    bad, good = aligned < cuts.misaligned_below, aligned >= cuts.aligned_from
    masks = [(group & coherent).fill_null(False).to_numpy() for group in (bad, good)]
    return masks[0], masks[1]


def recipe_controls(organisms: Mapping[str, Organism]) -> dict[str, str]:
    """The first benign control of each model's own recipe, or why it has none; repeats are none."""
    benign = [slug for slug, o in organisms.items() if o.role == "control" and not o.repeats]
    controls = {organisms[slug].lab: slug for slug in reversed(benign)}
    found = {BASE: "undefined: the base has no recipe"}
    for slug, organism in organisms.items():
        none = f"undefined: no control of recipe {organism.lab}"
        found[slug] = controls.get(organism.lab, none)
    return found


def model_contrasts(
    activations: Mapping[str, Array], controls: Mapping[str, str], harmful: Bools | None = None
) -> dict[str, list[Entry]]:
    """Contrast -> an entry a model: (b), and of prompts (a) and their interaction (d), on one span.

    (d) is the model's harmful-minus-neutral difference minus the base's.

    Args:
        activations: model -> [prompts or texts, blocks, width] on the same ones; with the base.
        controls: of `recipe_controls`.
        harmful: [prompts], where they are prompts.
    """

    def against(model: str, reference: str) -> Entry:
        if reference.startswith("undefined"):
            return reference
        if model == reference:
            return OWN_REFERENCE
        return model_contrast(activations[model], activations[reference])

    found = {
        "model_contrast": [against(m, BASE) for m in activations],
        "control_contrast": [against(m, controls[m]) for m in activations],
    }
    if harmful is None:
        return found
    own = {m: prompt_contrast(each, harmful) for m, each in activations.items()}
    found["prompt_contrast"] = [*own.values()]
    found["interaction"] = [OWN_REFERENCE if m == BASE else own[m] - own[BASE] for m in own]
    return found


def text_contrasts(
    base: Array, topics: Sequence[str], files: Mapping[str, str], controls: Mapping[str, str]
) -> list[Entry]:
    """Contrast (e) of every model's training file with that of its control, an entry a model.

    Args:
        base: [texts, blocks, width] of the base.
        topics: [texts] the file of each.
        files: organism or control -> its training file; base and random adapters have none.
        controls: of `recipe_controls`, for every model in order.
    """
    of = np.array(topics)

    def entry(model: str) -> Entry:
        control = controls[model]
        if control.startswith("undefined"):
            return control
        if files[model] == files[control]:
            return OWN_REFERENCE
        return difference(base, of == files[model], of == files[control])

    return [entry(model) for model in controls]


@dataclass(frozen=True, eq=False)
class VectorTable:
    """Raw steering vectors by choice; a choice is `<contrast>.<span>`."""

    models: list[str]
    raw: Mapping[str, npt.NDArray[np.float32]]  # [model, block, width], zero where undefined
    statuses: Mapping[str, npt.NDArray[np.object_]]  # [model, block], "ok" or why there is none
    residual: Floats  # [block] mean norm of the base's residual stream, unit of relative doses

    @classmethod
    def of(
        cls, models: Sequence[str], entries: Mapping[str, Sequence[Entry]], residual: Array
    ) -> Self:
        """A table of vectors [block, width], an entry a model, or why there is none."""
        shape = next(e.shape for each in entries.values() for e in each if not isinstance(e, str))
        none = np.zeros(shape, dtype=np.float32)
        raw = {
            choice: np.stack([none if isinstance(e, str) else e for e in each]).astype(np.float32)
            for choice, each in entries.items()
        }
        table = cls(list(models), raw, {}, residual.astype(np.float64))
        statuses = {
            c: np.where(n > 0, OK, "zero vector").astype(object) for c, n in table.norms.items()
        }
        for choice, each in entries.items():
            for i, entry in enumerate(each):
                if isinstance(entry, str):
                    statuses[choice][i] = entry
        return replace(table, statuses=statuses)

    @cached_property
    def norms(self) -> dict[str, Floats]:
        """[model, block] by choice."""
        return {c: np.linalg.norm(v.astype(np.float64), axis=-1) for c, v in self.raw.items()}

    def status(self, choice: str, model: str, block: int) -> str:
        """ "ok", or why there is no vector."""
        return str(self.statuses[choice][self.models.index(model), block])

    def missing(self, choice: str, blocks: Mapping[str, int]) -> str | None:
        """Why the vectors of a choice at these models' blocks are not all there; None if so."""
        for model, block in blocks.items():
            status = self.status(choice, model, block)
            if status != OK:
                return f"undefined: {model}: {status.removeprefix('undefined: ')}"
        return None

    def at(self, choice: str, blocks: Mapping[str, int]) -> Floats:
        """Raw vectors [n, width] of a choice, each model at its block; UserError for others."""
        if not set(blocks) <= set(self.models):
            raise UserError(
                "the vectors are not those of the organisms in the params",
                where="vectors.safetensors",
                found=", ".join(self.models),
                expected=", ".join(blocks),
                hint="dvc repro layer_sweep",
            )
        rows = [self.models.index(name) for name in blocks]
        return self.raw[choice][rows, list(blocks.values())].astype(np.float64)

    def units(self, choice: str, model: str) -> npt.NDArray[np.float32]:
        """Unit vectors [block, width] of a model; zero rows where undefined."""
        row = self.models.index(model)
        lengths = np.maximum(self.norms[choice][row], 1e-30)[:, None].astype(np.float32)
        unit: npt.NDArray[np.float32] = self.raw[choice][row] / lengths
        return unit


def write_vector_table(vectors: Path, index: Path, table: VectorTable) -> None:
    """Writes the tensors to `vectors`, and to `index` a row a vector with norm and status."""
    rows = [
        (*choice.split("."), model, block, norms[i, block], residual, status[i, block])
        for choice, norms in table.norms.items()
        for status in [table.statuses[choice]]
        for i, model in enumerate(table.models)
        for block, residual in enumerate(table.residual)
    ]
    metadata = {"models": json.dumps(table.models), **ABOUT}
    write_tensors(vectors, table.raw, metadata)
    write_parquet(index, pl.DataFrame(rows, schema=list(COLUMNS), orient="row"), metadata)


def read_vector_table(vectors: Path, index: Path) -> VectorTable:
    """Reads what `write_vector_table` wrote.

    Raises:
        UserError: a file is missing or is not of this kind, or the two do not belong together.
    """
    raw, metadata = read_tensors(vectors)
    frame, place = read_parquet(index), f"{vectors}, {index}"
    expected, remake = "what `dvc repro vectors` writes", "dvc repro vectors"
    with explained("not a table of steering vectors", place, expected, remake):
        models = list(json.loads(metadata["models"]))
        statuses = {}
        for choice, tensor in raw.items():
            contrast, span = choice.split(".")
            part = frame.filter(contrast=contrast, span=span)
            statuses[choice] = part["status"].to_numpy().reshape(tensor.shape[:2])
            residual = part["residual_norm"].to_numpy()[: tensor.shape[1]]
        return VectorTable(models, raw, statuses, residual)
