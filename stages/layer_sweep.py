"""Stage `layer_sweep`: which block and which coefficient each steering vector gets."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from em_geometry.activations.blocks import check_blocks
from em_geometry.io.results import Leaf
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import models, vector_table
from em_geometry.project.outputs import put_plot, put_results
from em_geometry.settings import BASE, Params
from em_geometry.stats.estimate import Floats
from em_geometry.steering.conditions import Intervention, random_direction, write_selected
from em_geometry.steering.margins import measured
from em_geometry.steering.pairs import Trial, indices, read_pairs
from em_geometry.vectors import sweep
from em_geometry.vectors.contrasts import ABOUT

HEADLINE = ("layer", "dose", "contrast", "span")


@stage
def main(params: Params) -> None:
    settings, how, seed = params.layer_sweep, params.vectors, params.run.seed
    table = vector_table()
    organisms, blocks = params.slugs("organism"), len(table.residual)
    check_blocks(settings.layers, blocks, "params.yaml: layer_sweep.layers")
    if isinstance(how.layer, int):
        check_blocks([how.layer], blocks, "params.yaml: vectors.layer")
    cells = sweep.cells_of(settings, how.layer)
    layers = list(dict.fromkeys(layer for layer, _ in cells))
    units = sweep.candidates(table, f"{how.contrast}.{how.span}", organisms, layers)
    known, pairs = models(params), read_pairs(Path(params.margins.pairs))
    some = indices(pairs, "misaligned", "choosing", settings.pairs)
    loaded = known.load(BASE)

    def read(ways: Sequence[Intervention | None]) -> Floats:
        trials = [Trial(some, way) for way in ways]
        return np.stack(measured(known, loaded, pairs, trials, "layer sweep", params.workers))

    width = next(iter(units.values())).shape[-1]
    names = [f"random_{k}" for k in range(settings.random_directions)]
    chance = np.stack([random_direction(width, seed, name) for name in names])
    found = sweep.tried(read, units, chance, cells, table.residual)
    chosen = sweep.choose(found, how.layer, settings.max_damage)
    selected = sweep.selected_of(table, units, chosen, how)
    about = {
        "model_sha256": loaded.sha256,
        "layers_convention": ABOUT["layers"],
        "rule": f"layer {how.layer}, margins of the choosing pairs",
        "units": "unit vectors; coefficient = dose x mean residual norm of the base",
    }
    write_selected(paths.SELECTED, selected, about)
    results: dict[str, Leaf] = {"contrast": how.contrast, "span": how.span, "rule": str(how.layer)}
    results |= {"pairs": len(some), "random_directions": len(chance)}
    results |= sweep.sweep_results(found, chosen, selected)
    results |= sweep.contrast_efficacy(read, table, chosen, chance, settings)
    put_results("layer_sweep", results, HEADLINE)
    put_plot("layer_sweep", ["layer", *organisms, "random"], sweep.block_rows(found, chosen))
