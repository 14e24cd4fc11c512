"""Stage `base_similarity`: how like the base each model is, by model, laboratory and block."""

from __future__ import annotations

from em_geometry.io.files import write_text
from em_geometry.io.results import Leaf, write_results
from em_geometry.io.tables import csv_text
from em_geometry.project import paths
from em_geometry.project.command import PARAMS, ParamsFile, run
from em_geometry.project.readers import activations, prompts
from em_geometry.settings import BASE, Params, load_params
from em_geometry.steering.selected import read_selected
from em_geometry.vectors.base_similarity import similarities, similarity_results
from em_geometry.vectors.contrasts import prompt_span

HEADLINE = ("layer", "lab.*", "model.*.contrast_cosine")


def main(params: Params) -> None:
    """Writes similarity by model and by lab at the selected block, and the trace over blocks."""
    span = prompt_span(params.vectors.span, params.activations.spans)
    harmful, base = (prompts()["kind"] == "harmful").to_numpy(), activations(BASE, span)
    table = {m: similarities(activations(m, span), base, harmful) for m in params.organisms}
    organisms = params.slugs("organism")
    layers = {slug: s.layer for slug, s in read_selected(paths.SELECTED, organisms).items()}
    labs: dict[str, list[str]] = {}
    for slug in organisms:
        labs.setdefault(params.organisms[slug].lab, []).append(slug)
    results: dict[str, Leaf] = {"span": span} | similarity_results(table, layers, labs)
    stage = "base_similarity"
    write_results(paths.table(stage), paths.metrics(stage), results, HEADLINE)
    traces = [found["contrast_cosine"].tolist() for found in table.values()]
    rows = ([layer, *row] for layer, row in enumerate(zip(*traces, strict=True)))
    write_text(paths.plot("base_similarity.csv"), csv_text(["layer", *table], rows))


def cli(params: ParamsFile = PARAMS) -> None:
    """Measure how similar each model is to the base, in three readings."""
    main(load_params(params))


if __name__ == "__main__":
    run(cli)
