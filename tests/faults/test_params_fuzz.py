"""Every key of the schema with every obvious mistake: it loads, or the message names the key."""

import math
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from em_geometry.errors import UserError
from em_geometry.io.files import checked
from em_geometry.settings import Params
from tests.conftest import SMOL, changed

UNKNOWN = "an unknown key"
Place = tuple[str, ...]


def places(model: type[BaseModel], given: Any, place: Place = ()) -> Iterator[Place]:
    """Every key of the schema, also those that the profile leaves out, and an unknown one each.

    Of a mapping of sections (organisms, recipes), the first that the profile has stands for all.
    """

    yield (*place, UNKNOWN)
    for name, field in model.model_fields.items():
        inner = given.get(name) if isinstance(given, dict) else None
        yield (*place, name)
        if hasattr(field.annotation, "model_fields"):
            yield from places(field.annotation, inner, (*place, name))
        for section in typing.get_args(field.annotation):
            if hasattr(section, "model_fields"):
                first = next(iter(inner or {}))
                yield (*place, name, first)
                yield from places(section, inner[first], (*place, name, first))


PLACES = list(places(Params, changed()))


def loads(place: Place, data: Any) -> bool:
    """Whether the params load; else the file and the key at fault, or its section, is named."""
    try:
        checked(Params, data, str(SMOL))
    except UserError as error:
        text = str(error)
        assert str(SMOL) in text and len(text) < 3000
        named = (".".join(place[:n]) for n in range(1, len(place) + 1))
        assert any(name in text for name in named), text
        return False
    return True


def test_every_key_of_the_schema_with_every_obvious_mistake() -> None:
    # Also keys that the profile leaves out.
    assert {("workers", "address"), ("organisms", "finance", "revision")} <= set(PLACES)
    assert len(PLACES) > 120
    refusals = 0
    for place in PLACES:
        assert place[-1] != UNKNOWN or not loads(place, changed(place, 1))
        for value in (None, True, -1, 2**70, -1e308, math.nan, math.inf, "x\0", [None], {"x": 1}):
            refusals += not loads(place, changed(place, value))
    assert refusals > 900
