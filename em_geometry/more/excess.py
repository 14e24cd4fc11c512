"""Whose misalignment can be read against a benign control."""

from collections.abc import Collection, Mapping

from em_geometry.errors import UserError


def with_control(controls: Mapping[str, str], organisms: Collection[str]) -> dict[str, str]:
    """Organism -> the control of its recipe, which the excess of its margin is against.

    Args:
        controls: as `recipe_controls` gives them, with words that begin with "undefined" for none.
    Raises:
        UserError: none of the organisms has one.
    """
    found = {
        slug: control
        for slug, control in controls.items()
        if slug in organisms and not control.startswith("undefined")
    }
    if not found:
        raise UserError(
            "no organism has a benign control of its recipe to be compared with",
            where="params.yaml: organisms", found=", ".join(organisms),
            expected="a control with the lab of an organism",
        )  # fmt: skip
    return found
