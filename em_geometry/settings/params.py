"""The params of a run: one strict model of `params.yaml`, loaded by every stage and by the tests.

Unknown keys, wrong types and values out of range are errors that name the key; a misspelt key
is answered with the nearest known one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from em_geometry.errors import KeyFault, UserError
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
            raise KeyFault(
                "targets", "targets must be base, then all organisms in order",
                self.targets, expected,
            )  # fmt: skip
        factors = [self.organisms[slug].factors for slug in self.slugs("organism")][:1]
        for slug, organism in self.organisms.items():
            if organism.lab not in self.recipes:
                raise KeyFault(
                    f"organisms.{slug}.lab", "is no key of recipes",
                    organism.lab, "one of " + ", ".join(self.recipes),
                )  # fmt: skip
            if organism.role == "organism" and set(organism.factors) != set(factors[0]):
                raise KeyFault(
                    f"organisms.{slug}.factors",
                    "every organism needs a level of the same factors, or none has any",
                    organism.factors,
                    "levels of " + (", ".join(factors[0]) or "none"),
                )  # fmt: skip
        focus = self.geometry.focus
        if focus and (len(set(focus)) != 2 or not set(focus) <= set(self.clusters())):
            raise KeyFault(
                "geometry.focus", "must name two of the clusters of the organisms", focus,
                f"two of {', '.join(self.clusters())}, or [] for the first two",
            )  # fmt: skip
        for number, pair in enumerate(self.transfer.pairs):
            source, _, target = pair.partition(">")
            if source not in self.organisms or target not in self.steered():
                raise KeyFault(
                    f"transfer.pairs.{number}", "is not organism>target",
                    pair, "two of " + ", ".join(self.steered()),
                )  # fmt: skip
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
    return read_yaml(path, Params, "profiles/smol.yaml shows every key, with what it means")
