"""The vectors of every contrast, span, model and block, as one table of two files.

`vectors.safetensors` holds a raw tensor [model, block, width] for each choice
(`<contrast>.<span>`), `index.parquet` a row a vector with its norm and status. A vector that is
not defined is zero in the tensor and says why in the index.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from em_geometry.errors import UserError
from em_geometry.io.files import read_parquet, read_tensors, write_parquet, write_tensors
from em_geometry.vectors.contrasts import Array, Entry

OK = "ok"
COLUMNS = ("contrast", "span", "model", "layer", "norm", "residual_norm", "status")
ABOUT = {
    "layers": "output of decoder block l, l = 0..L-1",
    "units": "residual stream, raw differences of means",
    "dtype": "float32",
}


@dataclass(frozen=True, eq=False)
class VectorTable:
    """Raw steering vectors by choice; a choice is `<contrast>.<span>`.

    Attributes:
        models: in order.
        raw: choice -> float32 [model, block, width], zero where undefined.
        norms: choice -> float64 [model, block].
        statuses: choice -> str [model, block], "ok" or why there is no vector.
        residual: [block] mean norm of the base's residual stream, the unit of relative doses.
    """

    models: list[str]
    raw: Mapping[str, npt.NDArray[np.float32]]
    norms: Mapping[str, npt.NDArray[np.float64]]
    statuses: Mapping[str, npt.NDArray[np.object_]]
    residual: npt.NDArray[np.float64]

    @classmethod
    def of(
        cls, models: Sequence[str], entries: Mapping[str, Sequence[Entry]], residual: Array
    ) -> Self:
        """Makes a table of vectors [block, width], an entry a model, or why there is none."""
        shape = next(e.shape for each in entries.values() for e in each if not isinstance(e, str))
        raw, norms, statuses = {}, {}, {}
        for choice, each in entries.items():
            raw[choice] = np.zeros((len(each), *shape), dtype=np.float32)
            norms[choice] = np.zeros((len(each), shape[0]))
            statuses[choice] = np.empty((len(each), shape[0]), dtype=object)
            for i, entry in enumerate(each):
                if isinstance(entry, str):
                    statuses[choice][i] = entry
                    continue
                raw[choice][i] = entry
                norms[choice][i] = np.linalg.norm(entry.astype(np.float64), axis=-1)
                statuses[choice][i] = np.where(norms[choice][i] > 0, OK, "zero vector")
        return cls(list(models), raw, norms, statuses, residual.astype(np.float64))

    def rows(self, models: Sequence[str]) -> list[int]:
        """Positions of `models`; UserError where one has no vectors."""
        for name in models:
            if name not in self.models:
                raise UserError(
                    "the vectors are not those of the organisms in the params",
                    where="vectors.safetensors",
                    found=", ".join(self.models),
                    expected=", ".join(models),
                    hint="dvc repro layer_sweep",
                )
        return [self.models.index(name) for name in models]

    def checked(self, choice: str) -> str:
        """`choice`, which the table must have.

        Raises:
            UserError: the params name a contrast on a span that it is not built on.
        """
        if choice not in self.raw:
            raise UserError(
                "no vectors of this contrast and span",
                where="params.yaml: vectors",
                found=choice,
                expected="one of " + ", ".join(sorted(self.raw)),
            )
        return choice

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

    def at(self, choice: str, blocks: Mapping[str, int]) -> npt.NDArray[np.float64]:
        """Raw vectors [n, width] of a choice, each model at its block."""
        rows = self.rows(list(blocks))
        return self.raw[choice][rows, list(blocks.values())].astype(np.float64)

    def units(self, choice: str, model: str) -> npt.NDArray[np.float32]:
        """Unit vectors [block, width] of a model; zero rows where undefined."""
        row = self.models.index(model)
        lengths = np.maximum(self.norms[choice][row], 1e-30)[:, None].astype(np.float32)
        unit: npt.NDArray[np.float32] = self.raw[choice][row] / lengths
        return unit


def write_vector_table(vectors: Path, index: Path, table: VectorTable) -> None:
    """Writes the tensors to `vectors` and their norms and statuses to `index`."""
    import polars as pl

    rows = [
        (
            *choice.split("."),
            model,
            block,
            norms[i, block],
            residual,
            table.statuses[choice][i, block],
        )
        for choice, norms in table.norms.items()
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
    import polars as pl

    raw, metadata = read_tensors(vectors)
    frame = read_parquet(index)
    try:
        models = list(json.loads(metadata["models"]))
        norms, statuses = {}, {}
        for choice, tensor in raw.items():
            contrast, span = choice.split(".")
            part = frame.filter(pl.col("contrast") == contrast, pl.col("span") == span)
            norms[choice] = part["norm"].to_numpy().reshape(tensor.shape[:2])
            statuses[choice] = part["status"].to_numpy().reshape(tensor.shape[:2])
            residual = part["residual_norm"].to_numpy()[: tensor.shape[1]]
        return VectorTable(models, raw, norms, statuses, residual)
    except (KeyError, ValueError, UnboundLocalError, pl.exceptions.PolarsError) as error:
        raise UserError(
            "not a table of steering vectors",
            where=f"{vectors}, {index}",
            found=str(error),
            hint="dvc repro vectors",
        ) from None
