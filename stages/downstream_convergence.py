"""Stage `downstream_convergence`: orthogonal vectors followed through the base's later blocks."""

from __future__ import annotations

from em_geometry.activations.prompts import read_prompts
from em_geometry.io.results import write_results
from em_geometry.models.chat import render
from em_geometry.project import paths
from em_geometry.project.command import PARAMS, ParamsFile, run
from em_geometry.project.inputs import models
from em_geometry.settings import BASE, Params, load_params
from em_geometry.steering.convergence import PROMPTS, convergence
from em_geometry.steering.forced import spread_prompts
from em_geometry.steering.selected import read_selected

STAGE = "downstream_convergence"
HEADLINE = ("random.*", "vectors.*")


def main(params: Params) -> None:
    """Measures every pair on the base model."""
    known = models(params)
    loaded = known.load(BASE)
    chosen = spread_prompts(read_prompts(params.prompts), PROMPTS)
    prompts = [render(loaded.tokenizer, p.prompt, known.system_prompt).ids for p in chosen]
    selected = read_selected(paths.SELECTED)
    found = convergence(loaded.model, prompts, selected, params.run.seed)
    write_results(paths.table(STAGE), paths.metrics(STAGE), found, HEADLINE)


def cli(params: ParamsFile = PARAMS) -> None:
    """Follow the effects of orthogonal vectors through the later blocks of the base model."""
    main(load_params(params))


if __name__ == "__main__":
    run(cli)
