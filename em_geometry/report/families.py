"""Runs of other base models beside this one: what the page's tables of families are made of.

A finished run's numbers that families are compared by are kept in one small table of results,
`<folder>/<profile>.csv`; a key there is the stage's name, a dot, and the stage's own key.
"""

from collections.abc import Mapping
from pathlib import Path

from em_geometry.claims.lookup import Metrics
from em_geometry.geometry.families import agreement
from em_geometry.io.results import Leaf, Results, as_estimate, flatten, read_results, shown
from em_geometry.settings import Params

STAGE = "families"
MODEL = "model"  # key of the base model's name
# What is kept of each stage, as patterns of keys; a `*` is one part of a key.
KEPT = {
    "layer_sweep": ["layer", "dose"],
    "geometry": [
        *(f"reference.*.{part}.*" for part in ("angle_deg", "cosine", "holds")),
        *(f"reference.*.{key}" for key in ("cross_mean", "within_mean", "verdict_count")),
    ],
    "calibration": [
        "core", "effective_dimension.finetunes", "power.*.verdict_paper",
        *(f"statistic.similarity.cross_mean.{null}.p" for null in ("exchanged", "finetunes")),
    ],
    "margins": ["organism.*.misaligned", "vector.*.beyond_random", "vector.*.steers",
                "transfer.*"],
    "prediction": [f"{of}.{key}" for of in ("cosine", "base_similarity")
                   for key in ("slope", "slope.p", "verdict")],
    "judge": ["gate.says", "gate.event_kappa"],
}  # fmt: skip


def kept(metrics: Metrics, model: str) -> Results:
    """What is kept of a run.

    Args:
        model: name of the base model.
    """
    rows = {MODEL: as_estimate(model)}
    for stage, patterns in KEPT.items():
        found = metrics.group(stage)
        rows |= {f"{stage}.{key}": found[key] for key in shown(found, patterns)}
    return Results(rows)


def with_families(metrics: Metrics, model: str, folder: Path, params: Params) -> Metrics:
    """This run's results and, where other profiles' runs are kept, a stage `families` of them all.

    It has what is kept of this run, the runs' models, and the agreement of their cosines with this
    one's; what is kept of each is in a stage of its own, `families/<profile>`.
    """
    own = kept(metrics, model)
    others = {p.stem: read_results(p) for p in sorted(folder.glob("*.csv"))}
    others.pop(params.profile, None)
    if not others or "geometry" not in metrics.stages:
        return metrics
    organisms, runs = params.slugs("organism"), {params.profile: own} | others
    together: Mapping[str, Leaf] = dict(flatten({
        "run": {name: run.rows[MODEL] for name, run in runs.items()},
        "agreement": {name: agreement(own, other, organisms, params.run.seed)
                      for name, other in others.items()},
    }))  # fmt: skip
    rows = dict(own.rows) | {key: as_estimate(leaf) for key, leaf in together.items()}
    stages = {f"{STAGE}/{name}": run for name, run in runs.items()} | {STAGE: Results(rows)}
    return Metrics({**metrics.stages, **stages})
