"""Stage `baseline_responses`: every model's unsteered answers to the evaluation questions.

One stage over all models: its journal keeps every answer, so that an added organism samples its own
answers only.
"""

from em_geometry.io.files import write_parquet
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import models, questions
from em_geometry.settings import Params
from em_geometry.steering.answers import respond
from em_geometry.steering.conditions import Condition


@stage
def main(params: Params) -> None:
    """Writes data/baseline/responses/<model>.parquet, one row an answer."""
    known, asked = models(params), questions(params)
    conditions = [Condition(samples=params.baseline.samples)]
    for slug in params.answering():
        loaded = known.load(slug)
        how = params.sampling, f"baseline {slug}"
        frame = respond(known, loaded, conditions, {}, asked, *how, workers=params.workers)
        metadata = {"model": slug, "model_sha256": loaded.sha256}
        write_parquet(paths.BASELINE_RESPONSES / f"{slug}.parquet", frame, metadata)
