"""Stage `downstream_convergence`: orthogonal vectors followed through the base's later blocks."""

from em_geometry.activations.prompts import read_prompts, spread_prompts
from em_geometry.models.chat import render
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import models
from em_geometry.project.outputs import put_results
from em_geometry.settings import BASE, Params
from em_geometry.steering.conditions import read_selected
from em_geometry.steering.convergence import PROMPTS, convergence


@stage
def main(params: Params) -> None:
    known = models(params)
    loaded = known.load(BASE)
    chosen = spread_prompts(read_prompts(params.prompts), PROMPTS)
    prompts = [render(loaded.tokenizer, p.prompt, known.system_prompt).ids for p in chosen]
    found = convergence(loaded.model, prompts, read_selected(paths.SELECTED), params.run.seed)
    put_results("downstream_convergence", found, ("random.end", "vectors.end"))
