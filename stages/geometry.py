"""Stage `geometry`: the battery on the measured vectors, and how it depends on their choice."""

from pathlib import Path

import numpy as np

from em_geometry.geometry import battery, choices
from em_geometry.geometry.inputs import read_directions
from em_geometry.geometry.methods import unit_gram
from em_geometry.io.results import Leaf, read_results
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import activations, selected, vector_table
from em_geometry.project.outputs import put_plot, put_results
from em_geometry.settings import BASE, Params
from em_geometry.vectors.contrasts import prompt_span
from em_geometry.vectors.evidence import every_choice

HEADLINE = ("selected.*", "cluster_angle.*", "similarity.*_mean", "statistic.*", "verdict.*",
            "clusters.silhouette*")  # fmt: skip


@stage
def main(params: Params) -> None:
    names, clusters, rules = params.slugs("organism"), params.clusters(), params.geometry
    vectors = selected(params)
    vectors = {name: vectors[name] for name in names}
    unit = np.stack([v.vector for v in vectors.values()]).astype(np.float64)
    norms = np.array([v.norm for v in vectors.values()])
    directions = read_directions(Path(params.vectors.external), unit.shape[1], names)
    gram = unit_gram(unit)
    chosen = battery(gram, clusters, rules, names=names, norms=norms).flat()
    how = vectors[names[0]]
    results: dict[str, Leaf] = {**chosen, "selected.choice": f"{how.contrast}.{how.span}"}
    for name, v in vectors.items():
        results |= {f"selected.layer.{name}": v.layer, f"selected.norm.{name}": v.norm}
    # every other choice
    swept = read_results(paths.table("layer_sweep"))
    own = {m: int(swept.rows[f"{m}.best_layer_by_margin"].value or 0) for m in names}
    span = prompt_span(how.span, params.activations.spans)
    middle = int(np.median([v.layer for v in vectors.values()]))
    base = activations(BASE, span)[:, middle]
    massive = choices.massive_dimensions(base.astype(np.float64), rules.massive_share)
    found = {
        choice: choices.main_numbers(rows, names, clusters, rules)
        for choice, rows in every_choice(vector_table(), vectors, own, massive).items()
    }
    results |= choices.sensitivity(found) | choices.survives(chosen, choices.kinds_of(found))
    if directions:  # from elsewhere, in no cluster
        rows = np.concatenate([unit, np.stack(list(directions.values()))])
        together = battery(unit_gram(rows), clusters, rules, names=[*names, *directions]).flat()
        results |= {"external.names": ", ".join(directions)}
        results |= {f"external.{key}": value for key, value in together.items()}
    else:
        results |= {"external": "none given"}
    put_results("geometry", results, HEADLINE)
    put_plot("cosines", ["name", *names], zip(names, *gram.T.tolist(), strict=True))
    put_plot("layer_trace", *choices.trace_table(found))
    put_plot("sensitivity", *choices.choices_table(found))
