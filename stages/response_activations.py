"""Stage `response_activations`: every organism's residual stream over its own unsteered answers."""

from em_geometry.activations.capture import store
from em_geometry.activations.prompts import answer_texts
from em_geometry.io.files import read_parquet
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import models, questions
from em_geometry.settings import ANSWER_SPANS, Params
from em_geometry.vectors.contrasts import misaligned_and_aligned, too_few


@stage
def main(params: Params) -> None:
    """Captures organisms' answers where misaligned and aligned ones can be compared.

    Writes data/response_activations/<model>.safetensors.
    """
    known, asked = models(params), questions(params)
    paths.RESPONSE_ACTIVATIONS.mkdir(parents=True, exist_ok=True)
    for slug in params.slugs("organism"):
        answers = read_parquet(paths.BASELINE_JUDGEMENTS / f"{slug}.parquet")
        if too_few(*misaligned_and_aligned(answers, params.vectors)):
            continue
        loaded = known.load(slug)
        texts, rows = answer_texts(answers, asked, loaded.tokenizer)
        path = paths.RESPONSE_ACTIVATIONS / f"{slug}.safetensors"
        how = params.activations.batch_size, f"answer activations {slug}", rows
        parts = [(ANSWER_SPANS, texts)]
        store(path, known, loaded, parts, *how, norms=False, workers=params.workers)
