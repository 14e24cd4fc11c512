"""Stage `vectors`: every contrast of every model at every block."""

import json

import numpy as np

from em_geometry.errors import UserError
from em_geometry.io.files import read_parquet, read_tensors
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import activations, prompts
from em_geometry.settings import BASE, Params
from em_geometry.stats.arrays import Bools
from em_geometry.vectors import contrasts


def on_span(params: Params, span: str) -> tuple[dict[str, contrasts.Array], Bools]:
    """Activations [prompts, blocks, width] by model, and which of the prompts are harmful."""
    rows = {m: prompts(m) for m in params.targets}
    for model, frame in rows.items():
        if frame["prompt_id"].to_list() != rows[BASE]["prompt_id"].to_list():
            raise UserError(
                "activations were taken on other prompts than those of the base",
                where=str(paths.ACTIVATIONS / f"{model}.parquet"),
                hint="dvc repro activations",
                found="other prompt ids",
            )
    return {m: activations(m, span) for m in rows}, (rows[BASE]["kind"] == "harmful").to_numpy()


@stage
def main(params: Params) -> None:
    entries: dict[str, list[contrasts.Entry]] = {}
    controls = contrasts.recipe_controls(params.organisms)
    spans: list[str] = list(params.activations.spans)
    for span in spans:
        for contrast, each in contrasts.prompt_contrasts(*on_span(params, span), controls).items():
            entries[f"{contrast}.{span}"] = each
    for model in params.targets:
        frame = read_parquet(paths.BASELINE_JUDGEMENTS / f"{model}.parquet")
        tensors, about = read_tensors(paths.RESPONSE_ACTIVATIONS / f"{model}.safetensors")
        answered = frame[json.loads(about["rows"])]
        bad, good = contrasts.misaligned_and_aligned(answered, params.vectors)
        for span, tensor in tensors.items():
            found = contrasts.response_contrast(tensor, bad, good)
            entries.setdefault(f"response_contrast.{span}", []).append(found)
    # Over the user's tokens, where captured; the first token, whose norm is many times larger, is
    # never among them.
    span = "prompt_mean" if "prompt_mean" in spans else spans[0]
    residual = np.asarray(activations(BASE, f"{span}.norm").mean(0))
    table = contrasts.VectorTable.of(params.targets, entries, residual)
    contrasts.write_vector_table(paths.VECTORS, paths.VECTOR_INDEX, table)
