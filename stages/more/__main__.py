"""Stage `more`: one experiment of a neighbouring paper, off unless `more.experiments` names it."""

from collections.abc import Callable

from em_geometry.errors import UserError
from em_geometry.project.command import stage
from em_geometry.settings import Params
from stages.more import ablation, features, patching, prevention, screening, subspaces, traits

RUN: dict[str, Callable[[Params], None]] = {
    "ablation": ablation.main,
    "screening": screening.main,
    "subspaces": subspaces.main,
    "prevention": prevention.main,
    "traits": traits.main,
    "patching": patching.main,
    "features": features.main,
}


@stage
def main(params: Params, *names: str) -> None:
    for name in names or params.more.experiments:
        if name not in RUN:
            expected = "one of " + ", ".join(RUN)
            raise UserError(
                "unknown experiment", where="command line", found=name, expected=expected
            )
        RUN[name](params)
