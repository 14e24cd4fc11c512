"""Stage `more`: one experiment of a neighbouring paper, off unless `more.experiments` names it."""

from collections.abc import Callable

from em_geometry.errors import UserError
from em_geometry.project.command import stage
from em_geometry.settings import Params
from stages.more import (
    ablation,
    conditional,
    features,
    narrow,
    patching,
    prevention,
    screening,
    subspaces,
    traits,
)

RUN: dict[str, Callable[[Params], None]] = {
    "ablation": ablation.main,
    "conditional": conditional.main,
    "features": features.main,
    "narrow": narrow.main,
    "patching": patching.main,
    "prevention": prevention.main,
    "screening": screening.main,
    "subspaces": subspaces.main,
    "traits": traits.main,
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
