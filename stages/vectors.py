"""Stage `vectors`: every contrast of every model at every block."""

import json

import numpy as np
import polars as pl

from em_geometry.errors import UserError
from em_geometry.io.files import read_parquet, read_tensors
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import activations, prompts, texts
from em_geometry.settings import ANSWER_SPANS, BASE, TEXTS, Params, Vectors
from em_geometry.vectors import contrasts


def check_rows(rows: dict[str, pl.DataFrame], column: str) -> None:
    """Raises UserError unless all models have read the same prompts or texts."""
    for model, frame in rows.items():
        if frame[column].to_list() != rows[BASE][column].to_list():
            raise UserError(
                "activations were taken on other prompts than those of the base",
                where=str(paths.ACTIVATIONS / f"{model}.parquet"),
                hint="dvc repro activations",
                found=f"other {column}",
            )


def response_contrasts(model: str, cuts: Vectors) -> dict[str, contrasts.Entry]:
    """The contrast of an organism's own answers by span, or why there is none."""
    judged = paths.BASELINE_JUDGEMENTS / f"{model}.parquet"
    if not judged.is_file():  # a study without behaviour
        return dict.fromkeys(ANSWER_SPANS, "undefined: no answers were judged")
    frame = read_parquet(judged)
    if why := contrasts.too_few(*contrasts.misaligned_and_aligned(frame, cuts)):
        return dict.fromkeys(ANSWER_SPANS, why)  # then the stage before has read none
    tensors, about = read_tensors(paths.RESPONSE_ACTIVATIONS / f"{model}.safetensors")
    masks = contrasts.misaligned_and_aligned(frame[json.loads(about["rows"])], cuts)
    return {span: contrasts.response_contrast(t, *masks) for span, t in tensors.items()}


@stage
def main(params: Params) -> None:
    models, entries = params.targets, dict[str, list[contrasts.Entry]]()
    none = dict.fromkeys(params.random_adapters, "undefined: a random adapter has no recipe")
    controls = contrasts.recipe_controls(params.organisms) | none
    check_rows({m: prompts(m) for m in models}, "prompt_id")
    check_rows({m: texts(m) for m in models}, "text_id")
    harmful = (prompts()["kind"] == "harmful").to_numpy()
    for span in params.spans():
        each = {m: activations(m, span) for m in models}
        if span == TEXTS:
            found = contrasts.model_contrasts(each, controls)
            files = {slug: o.data for slug, o in params.organisms.items()}
            read = each[BASE], texts()["topic"].to_list()
            found[contrasts.OF_TEXTS] = contrasts.text_contrasts(*read, files, controls)
        else:
            found = contrasts.model_contrasts(each, controls, harmful)
        entries |= {f"{contrast}.{span}": every for contrast, every in found.items()}
    organisms = params.slugs("organism")
    answered = {m: response_contrasts(m, params.vectors) for m in models if m in organisms}
    other = dict.fromkeys(ANSWER_SPANS, "undefined: only organisms' own answers are read")
    for span in ANSWER_SPANS:
        of_answers = [answered.get(model, other)[span] for model in models]
        entries[f"response_contrast.{span}"] = of_answers
    # Over the user's tokens, where captured; the first token, whose norm is many times larger, is
    # never among them.
    spans: list[str] = list(params.activations.spans)
    span = "prompt_mean" if "prompt_mean" in spans else spans[0]
    residual = np.asarray(activations(BASE, f"{span}.norm").mean(0))
    table = contrasts.VectorTable.of(models, entries, residual)
    contrasts.write_vector_table(paths.VECTORS, paths.VECTOR_INDEX, table)
