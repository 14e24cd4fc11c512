"""Stage `geometry`: the battery on the measured vectors, and how it depends on choices."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from em_geometry.geometry import battery
from em_geometry.geometry.methods import unit_gram
from em_geometry.geometry.multiverse import multiverse
from em_geometry.geometry.references import reference_results
from em_geometry.geometry.vector_sets import read_directions
from em_geometry.io.results import Leaf
from em_geometry.project.command import stage
from em_geometry.project.evidence import evidence_of
from em_geometry.project.inputs import activations, selected, vector_table
from em_geometry.project.outputs import put_plot, put_results
from em_geometry.settings import Params
from em_geometry.steering.conditions import Selected
from em_geometry.vectors.evidence import FALLBACK, readings

HEADLINE = ("reference.*.angle_deg.*", "reference.own_control.cosine.*", "multiverse.holds.[!t]*",
            "selected.choice", "verdict.count")  # fmt: skip
MAIN = ("cluster_angle.", "verdict.", "similarity.cross_mean", "similarity.within_mean")


def by_contrast(params: Params, chosen: Mapping[str, Selected]) -> dict[str, Leaf]:
    """The main statistics under every contrast and span, at the chosen blocks."""
    results, table = dict[str, Leaf](), vector_table()
    blocks = {name: each.layer for name, each in chosen.items()}
    for choice in sorted(table.raw):
        if why := table.missing(choice, blocks):
            results[f"sensitivity.{choice}"] = why
            continue
        gram = unit_gram(table.at(choice, blocks))
        found = battery(gram, params.clusters(), params.geometry, names=[*chosen])
        results |= {
            f"sensitivity.{choice}.{key}": value
            for key, value in found.flat().items()
            if key.startswith(MAIN)
        }
    return results


def by_reference(params: Params) -> dict[str, Leaf]:
    """The main statistics under every reference, and in every cell of the multiverse."""
    rules, (data, _, span) = params.geometry, evidence_of(params, FALLBACK)
    blocks = params.layer_sweep.layers or range(len(vector_table().residual))
    cells = readings(activations, data.family, params.spans(), blocks, rules.massive_share)
    header, rows, shares = multiverse(data.family, cells, data.members, rules)
    put_plot("multiverse", header, rows)
    return reference_results(data, rules) | shares | {"span": span}


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
    results |= by_contrast(params, vectors) | by_reference(params)
    if directions:  # from elsewhere, in no cluster
        rows = np.concatenate([unit, np.stack(list(directions.values()))])
        together = battery(unit_gram(rows), clusters, rules, names=[*names, *directions]).flat()
        results |= {"external.names": ", ".join(directions)}
        results |= {f"external.{key}": value for key, value in together.items()}
    else:
        results |= {"external": "none given"}
    put_results("geometry", results, HEADLINE)
    put_plot("cosines", ["name", *names], zip(names, *gram.T.tolist(), strict=True))
