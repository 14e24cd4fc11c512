"""Stage `responses`: every target's answers under every vector, dose and control.

One stage over all models: its journal keeps every answer, so that an added organism, whose vector
goes to every target, samples the new conditions only.
"""

from em_geometry.activations.prompts import read_prompts, spread_prompts
from em_geometry.io.files import write_parquet
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import models, questions
from em_geometry.settings import Params
from em_geometry.steering.answers import damage, respond
from em_geometry.steering.conditions import plan, read_selected


@stage
def main(params: Params, *slugs: str) -> None:
    """Writes data/responses/<model>.parquet (a row an answer) and data/damage/<model>.parquet."""
    known, steering, sampling = models(params), params.steering, params.sampling
    selected = read_selected(paths.SELECTED)
    asked = questions(params)
    benign = spread_prompts(read_prompts(params.prompts), steering.damage_prompts)
    for slug in [*map(params.target, slugs)] or params.steered():
        loaded, positions = known.load(slug), steering.positions
        chosen = plan(slug, selected, steering, params.transfer.pairs, params.run.seed)
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
        harm = damage(known, loaded, *chosen, benign, sampling, positions)
        metadata["kl"] = "nats per token"
        write_parquet(paths.DAMAGE / f"{slug}.parquet", harm, metadata)
