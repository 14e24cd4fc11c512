"""Stage `base_similarity`: how like the base each model is, by model, laboratory and block."""

from em_geometry.io.results import Leaf
from em_geometry.project.command import stage
from em_geometry.project.inputs import activations, prompts, selected
from em_geometry.project.outputs import put_plot, put_results
from em_geometry.settings import BASE, Params
from em_geometry.vectors.base_similarity import similarities, similarity_results, without_topics
from em_geometry.vectors.contrasts import prompt_span

HEADLINE = ("layer", "span")  # the rest is among the claims


@stage
def main(params: Params) -> None:
    """Writes similarity by model and by lab at the selected block, and the trace over blocks."""
    span = prompt_span(params.vectors.span, params.activations.spans)
    asked, base = prompts(), activations(BASE, span)
    harmful, topics = (asked["kind"] == "harmful").to_numpy(), asked["topic"].to_list()
    table = {m: similarities(activations(m, span), base, harmful) for m in params.originals()}
    layers = {slug: s.layer for slug, s in selected(params).items()}
    left = {m: without_topics(activations(m, span), base, harmful, topics) for m in table}
    found = similarity_results(table, left, layers, params.labs())
    results: dict[str, Leaf] = {"span": span} | found
    put_results("base_similarity", results, HEADLINE)
    traces = [found["contrast_cosine"].tolist() for found in table.values()]
    rows = ([layer, *row] for layer, row in enumerate(zip(*traces, strict=True)))
    put_plot("base_similarity", ["layer", *table], rows)
