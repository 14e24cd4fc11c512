"""The params of a run: one strict model of `params.yaml`, loaded by every stage and by the tests.

Unknown keys, wrong types and values out of range are errors that name the key; a misspelt key
is answered with the nearest known one.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal, Self

import pydantic
from pydantic import BaseModel, model_validator

from em_geometry.errors import UserError
from em_geometry.io.files import read_yaml
from em_geometry.settings.sections import (
    Activations,
    Base,
    Baseline,
    Geometry,
    Judging,
    LayerSweep,
    Monitoring,
    Organism,
    Prompts,
    Questions,
    Recipe,
    Report,
    Run,
    Sampling,
    Section,
    Seeds,
    Slug,
    Steering,
    Transfer,
    Vectors,
    Workers,
)

BASE = "base"  # the slug of the unmodified model among the targets


class Params(Section):
    """All params of a run."""

    profile: str
    run: Run = Run()
    workers: Workers = Workers()
    base: Base
    targets: list[Slug]  # every model that is measured: base, then all organisms and controls
    recipes: dict[Slug, Recipe]
    organisms: dict[Slug, Organism]
    prompts: Prompts = Prompts()
    activations: Activations = Activations()
    questions: Questions = Questions()
    sampling: Sampling = Sampling()
    baseline: Baseline = Baseline()
    judging: Judging = Judging()
    vectors: Vectors = Vectors()
    layer_sweep: LayerSweep
    geometry: Geometry = Geometry()
    seeds: Seeds = Seeds()
    monitoring: Monitoring = Monitoring()
    steering: Steering = Steering()
    transfer: Transfer = Transfer()
    report: Report = Report()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        expected = [BASE, *self.organisms]
        if self.targets != expected:
            raise ValueError(f"targets must be {expected}: base, then all organisms in order")
        for slug, organism in self.organisms.items():
            if organism.lab not in self.recipes:
                raise ValueError(
                    f"organisms.{slug}.lab is {organism.lab!r}, which is no key of recipes "
                    f"({', '.join(self.recipes)})"
                )
        named = {slug: set(self.organisms[slug].factors) for slug in self.slugs("organism")}
        for slug, factors in named.items():
            if factors != next(iter(named.values())):
                raise ValueError(
                    f"organisms.{slug}.factors names {sorted(factors) or 'nothing'}: every "
                    "organism needs a level of the same factors, or none has any"
                )
        focus = self.geometry.focus
        if focus and (len(set(focus)) != 2 or not set(focus) <= set(self.clusters())):
            raise ValueError(
                f"geometry.focus is {focus}: it must name two of the clusters of the organisms "
                f"({', '.join(self.clusters())}), or be [] for the first two"
            )
        for pair in self.transfer.pairs:
            source, _, target = pair.partition(">")
            if source not in self.organisms or target not in self.steered():
                raise ValueError(
                    f"transfer.pairs: {pair!r} is not organism>target, of {self.steered()}"
                )
        return self

    def slugs(self, role: Literal["organism", "control"]) -> list[str]:
        """Organisms or controls, in order."""
        return [slug for slug, o in self.organisms.items() if o.role == role]

    def steered(self) -> list[str]:
        """Targets that are steered: base and organisms, controls where `steering` says so."""
        kept = self.targets if self.steering.controls else [BASE, *self.slugs("organism")]
        return [slug for slug in self.targets if slug in kept]

    def target(self, slug: str) -> str:
        """`slug`, checked to be a target."""
        if slug not in self.targets:
            raise UserError(
                "unknown model",
                where="command line",
                found=slug,
                expected="one of " + ", ".join(self.targets),
            )
        return slug

    def clusters(self) -> dict[str, list[str]]:
        """Cluster name -> its organisms, clusters in order of first appearance."""
        found: dict[str, list[str]] = {}
        for slug, organism in self.organisms.items():
            if organism.cluster is not None:
                found.setdefault(organism.cluster, []).append(slug)
        return found


def load_params(path: Path) -> Params:
    """Reads and checks a params file; UserError names the key at fault."""
    if not path.is_file():
        raise UserError(
            "no params file",
            where=str(path),
            hint="run from the repository's root, or `make profile P=smol`",
            found="nothing there",
        )
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise UserError(
            "not a YAML mapping", where=str(path), found=type(data).__name__,
            expected="sections of keys, as in profiles/smol.yaml",
        )  # fmt: skip
    try:
        return Params.model_validate(data)
    except pydantic.ValidationError as error:
        raise _explain(error, path) from None


def _explain(error: pydantic.ValidationError, path: Path) -> UserError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        known = _known_keys(first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        return UserError(
            f"unknown key {key!r}{more}",
            where=str(path),
            found=repr(first["input"])[:100],
            expected="one of " + ", ".join(known) if known else None,
            hint=f"did you mean {near[0]!r}?" if near else "remove it",
        )
    found = "no such key" if first["type"] == "missing" else repr(first["input"])[:100]
    return UserError(
        f"{key or 'params'}: {first['msg']}{more}",
        where=f"{path}: {key}",
        found=found,
        hint="profiles/smol.yaml shows every key, with what it means",
    )


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    """Keys of the section at `location`, following dictionaries of sections."""
    model: type[BaseModel] = Params
    for part in location:
        field = model.model_fields.get(str(part))
        if field is None:  # a slug inside a dictionary of sections
            continue
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                model = kind
    return list(model.model_fields)
