"""The params of a run: one strict model of `params.yaml`, loaded by every stage and by the tests.

Unknown keys, wrong types and values out of range are errors that name the key; a misspelt key
is answered with the nearest known one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from em_geometry.errors import KeyFault, UserError
from em_geometry.io.files import read_yaml
from em_geometry.settings import sections as s
from em_geometry.settings.sections import Section, Slug

BASE = "base"  # the slug of the unmodified model among the targets

# Keys that change no number may be left out of a params file. Every other one must stand there:
# DVC compares what it finds in the file, and knows no defaults of ours.
OPTIONAL = {"workers", "run.device_map", "base.also_known_as"} | {
    f"judging.{key}"
    for key in (
        "concurrency", "requests_per_minute", "tokens_per_minute", "timeout_s", "retries",
        "max_usd", "usd_per_million_input", "usd_per_million_output",
    )
}  # fmt: skip


class Params(Section):
    """All params of a run."""

    profile: str
    run: s.Run = s.Run()
    workers: s.Workers = s.Workers()
    base: s.Base
    targets: list[Slug]  # every model that is measured: base, then all organisms and controls
    recipes: dict[Slug, s.Recipe]
    organisms: dict[Slug, s.Organism]
    prompts: s.Prompts = s.Prompts()
    activations: s.Activations = s.Activations()
    questions: s.Questions = s.Questions()
    sampling: s.Sampling = s.Sampling()
    baseline: s.Baseline = s.Baseline()
    judging: s.Judging = s.Judging()
    vectors: s.Vectors = s.Vectors()
    layer_sweep: s.LayerSweep
    geometry: s.Geometry = s.Geometry()
    seeds: s.Seeds = s.Seeds()
    monitoring: s.Monitoring = s.Monitoring()
    steering: s.Steering = s.Steering()
    transfer: s.Transfer = s.Transfer()
    report: s.Report = s.Report()

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
    params = read_yaml(path, Params, "profiles/smol.yaml shows every key, with what it means")
    left_out = dict(_left_out(params))
    if left_out:
        raise UserError(
            "keys that decide numbers are left out",
            where=str(path),
            found="no " + ", ".join(left_out),
            expected="; ".join(f"{key}: {json.dumps(value)}" for key, value in left_out.items()),
            hint="add them, with these values or others: DVC sees only what stands in the file",
        )
    return params


def _left_out(section: Section, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(key, default) of what no file gave."""
    for name, value in section:
        if prefix + name in OPTIONAL:
            continue
        if name not in section.model_fields_set:
            yield prefix + name, value.model_dump() if isinstance(value, Section) else value
        elif isinstance(value, Section):
            yield from _left_out(value, f"{prefix}{name}.")
