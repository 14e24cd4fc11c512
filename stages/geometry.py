"""Stage `geometry`: the battery on the measured vectors, and how it depends on their choice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from em_geometry.geometry import battery, choices
from em_geometry.geometry.gram import unit_gram
from em_geometry.geometry.inputs import read_directions
from em_geometry.geometry.trees import mds
from em_geometry.io.files import write_text
from em_geometry.io.results import Leaf, read_results, write_results
from em_geometry.io.tables import csv_text
from em_geometry.project import paths
from em_geometry.project.command import PARAMS, ParamsFile, run
from em_geometry.project.readers import activations
from em_geometry.settings import BASE, Params, load_params
from em_geometry.steering.selected import read_selected
from em_geometry.vectors.contrasts import prompt_span
from em_geometry.vectors.evidence import every_choice
from em_geometry.vectors.table import read_vector_table

HEADLINE = ("selected.*", "cluster_angle.*", "similarity.*_mean", "statistic.*", "verdict.*",
            "clusters.silhouette*")  # fmt: skip


def main(params: Params) -> None:
    """Runs the battery on the selected vectors and under every other choice."""
    names, clusters, rules = params.slugs("organism"), params.clusters(), params.geometry
    selected = read_selected(paths.SELECTED, names)
    selected = {name: selected[name] for name in names}
    unit = np.stack([s.vector for s in selected.values()]).astype(np.float64)
    norms = np.array([s.norm for s in selected.values()])
    directions = read_directions(Path(params.vectors.external), unit.shape[1], names)
    gram = unit_gram(unit)
    chosen = battery(gram, clusters, rules, names=names, norms=norms).flat()
    how = selected[names[0]]
    results: dict[str, Leaf] = {**chosen, "selected.choice": f"{how.contrast}.{how.span}"}
    for name, s in selected.items():
        results |= {f"selected.layer.{name}": s.layer, f"selected.norm.{name}": s.norm}
    # every other choice
    swept = read_results(paths.table("layer_sweep"))
    own = {m: int(swept.rows[f"{m}.best_layer_by_margin"].value or 0) for m in names}
    span = prompt_span(how.span, params.activations.spans)
    middle = int(np.median([s.layer for s in selected.values()]))
    base = activations(BASE, span)[:, middle]
    massive = choices.massive_dimensions(base.astype(np.float64), rules.massive_share)
    table = read_vector_table(paths.VECTORS, paths.VECTOR_INDEX)
    found = {
        choice: choices.main_numbers(vectors, names, clusters, rules)
        for choice, vectors in every_choice(table, selected, own, massive).items()
    }
    results |= choices.sensitivity(found) | choices.survives(chosen, choices.kinds_of(found))
    # pictures, and directions from elsewhere
    maps = mds(gram, params.run.seed)
    results |= {"mds.classical_stress": maps.classical_stress}
    results |= {"mds.smacof_stress": maps.smacof_stress}
    results |= choices.with_directions(unit, names, clusters, rules, directions)
    write_results(paths.table("geometry"), paths.metrics("geometry"), results, HEADLINE)
    write("cosines", ["name", *names], zip(names, *gram.T.tolist(), strict=True))
    write("layer_trace", *choices.trace_table(found))
    write("sensitivity", *choices.choices_table(found))


def write(name: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    write_text(paths.plot(f"{name}.csv"), csv_text(header, rows))


def cli(params: ParamsFile = PARAMS) -> None:
    """Run the battery on the measured steering vectors."""
    main(load_params(params))


if __name__ == "__main__":
    run(cli)
