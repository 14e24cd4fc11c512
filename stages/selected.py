"""Stage `selected`: the vectors at the block that `vectors.layer` names.

For studies that steer nothing; elsewhere `layer_sweep` chooses by what vectors do to the base.
"""

from em_geometry.activations.blocks import check_blocks
from em_geometry.errors import UserError
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import vector_table
from em_geometry.settings import Params
from em_geometry.steering.conditions import write_selected
from em_geometry.vectors.contrasts import ABOUT
from em_geometry.vectors.sweep import Choice, candidates, selected_of


@stage
def main(params: Params) -> None:
    how, table, organisms = params.vectors, vector_table(), params.slugs("organism")
    where = "params.yaml: vectors.layer"
    if not isinstance(how.layer, int):
        expected = f"a block from 0 to {len(table.residual) - 1}"
        raise UserError("nothing chooses a block", where=where, found=how.layer, expected=expected)
    check_blocks([how.layer], len(table.residual), where)
    units = candidates(table, f"{how.contrast}.{how.span}", organisms, [how.layer])
    chosen = dict.fromkeys(organisms, Choice(how.layer, dose=0.0))
    about = {"layers_convention": ABOUT["layers"], "rule": f"layer {how.layer}, as given"}
    write_selected(paths.SELECTED, selected_of(table, units, chosen, how), about)
