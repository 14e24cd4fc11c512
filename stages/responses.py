"""Stage `responses`: answers of base and organisms under vectors and random directions.

One stage over all models: its journal keeps every answer, so that an added organism samples the
new conditions only.
"""

from em_geometry.io.files import write_parquet
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import models, questions
from em_geometry.settings import Params
from em_geometry.steering.answers import respond
from em_geometry.steering.conditions import plan, read_selected


@stage
def main(params: Params, *slugs: str) -> None:
    """Writes data/responses/<model>.parquet, a row an answer."""
    known, steering, sampling = models(params), params.steering, params.sampling
    selected, asked = read_selected(paths.SELECTED), questions(params)
    for slug in [*map(params.target, slugs)] or params.steered():
        loaded, positions = known.load(slug), steering.positions
        chosen = plan(slug, selected, steering, params.named_pairs(), params.run.seed)
        label, workers = f"responses {slug}", params.workers
        frame = respond(known, loaded, *chosen, asked, sampling, label, positions, workers)
        metadata = {
            "model": slug,
            "model_sha256": loaded.sha256,
            "coefficient": "raw factor of the unit vector",
            "relative_dose": "coefficient / mean residual norm of the base at the layer",
            "positions": positions,
        }
        write_parquet(paths.RESPONSES / f"{slug}.parquet", frame, metadata)
