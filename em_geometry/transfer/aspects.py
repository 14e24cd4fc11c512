"""Stage `aspects`: which vector brings which misbehaviour.

Two scores cannot tell rude help from polite harm. For every aspect that the judge scores: the mean
change that a vector makes to it, over all targets and by target, and how far that goes beyond a
random direction of the same norm. An aspect that the judge scores no better than chance is named
and left out. Writes `metrics/aspects.json` and `plots/aspects.csv` (a row a vector and aspect).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from em_geometry.io.atomic import atomic_path
from em_geometry.io.files import read_json, write_metrics
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.settings.params import Params, load_params
from em_geometry.transfer.conditions import JUDGEMENTS, draws_of, name, read_judgements
from em_geometry.transfer.effectiveness import steered
from em_geometry.transfer.table import Table, difference, estimate

if TYPE_CHECKING:
    import polars as pl

METRICS, PLOT = Path("metrics/aspects.json"), Path("plots/aspects.csv")
JUDGE = Path("metrics/judge.json")
JUDGED = "judged"  # as the judge's validation writes it
RANDOM = "random"


def main(params: Params) -> None:
    """Changes of every aspect under every vector."""
    status = read_json(JUDGE).get("aspects", {})
    aspects = params.judging.aspects
    known = {a: str(status.get(a, f"not judged: no validation in {JUDGE}")) for a in aspects}
    frame = read_judgements(JUDGEMENTS, params)
    counts = {str(c): int(n) for c, n in frame.group_by("condition").len().iter_rows()}
    sources, targets = params.slugs("organism"), params.steered()
    found = {
        aspect: changes(
            Table(draws_of(frame, params, "mean_aligned", aspect), counts),
            sources,
            targets,
            params.steering.random_directions,
        )
        for aspect in aspects
        if known[aspect] == JUDGED
    }
    write_metrics(
        METRICS,
        {
            "status": known,
            **{part: {a: f[part] for a, f in found.items()} for part in PARTS},
            "answer": {a: sentence(a, known[a], found.get(a)) for a in aspects},
        },
    )
    with atomic_path(PLOT) as temporary:
        rows(known, found, sources).write_csv(temporary, float_precision=4)


PARTS = ("change", "beyond_random", "pair", "unsteered")


def changes(
    table: Table, sources: Sequence[str], targets: Sequence[str], random: int
) -> dict[str, Any]:
    """Of one aspect, in points of its 0-100 scale.

    Returns:
        change: by source (and `random`), target steered minus unsteered, mean over the targets.
        beyond_random: the same, minus that of the mean random direction; empty without one.
        pair: by source and target.
        unsteered: mean score of each target.
    """

    def moved(condition: str, target: str) -> np.ndarray:
        return table.sum(difference(condition, name(target)))

    by_source = {s: {t: moved(steered(t, s), t) for t in targets} for s in sources}
    n = {s: sum(table.n(steered(t, s)) for t in targets) for s in sources}
    means = {s: np.mean(list(effects.values()), axis=0) for s, effects in by_source.items()}
    chance = None
    if random:
        drawn = [(name(t, f"random_{i}", "random", 1), t) for i in range(random) for t in targets]
        chance = np.mean([moved(*each) for each in drawn], axis=0)
        n[RANDOM] = sum(table.n(condition) for condition, _ in drawn)
    change = means | ({RANDOM: chance} if chance is not None else {})
    beyond = {} if chance is None else {s: means[s] - chance for s in sources}
    return {
        "change": {s: estimate(v, n[s]).as_metrics("value") for s, v in change.items()},
        "beyond_random": {s: estimate(v, n[s]).as_metrics("value") for s, v in beyond.items()},
        "pair": {
            f"{s}__{t}": estimate(v, table.n(steered(t, s))).as_metrics("value")
            for s, effects in by_source.items()
            for t, v in effects.items()
        },
        "unsteered": {t: estimate(table.rate(name(t)), table.n(name(t))).as_metrics("value")
                      for t in targets},
    }  # fmt: skip


def sentence(aspect: str, status: str, found: Mapping[str, Any] | None) -> str:
    """Which vectors move an aspect, in one sentence that is built from the numbers."""
    label = aspect.replace("_", " ")
    if found is None:
        return f"{label}: {status}."
    effects = found["beyond_random"] or found["change"]
    against = "a random direction of the same norm" if found["beyond_random"] else "no steering"
    apart = {
        s: e for s, e in effects.items() if e["status"] == "ok" and not e["low"] <= 0 <= e["high"]
    }
    if not apart:
        return f"{label}: none of {len(effects)} vectors moves it apart from {against}."
    order = sorted(apart, key=lambda s: -abs(apart[s]["value"]))
    said = ", ".join(
        f"{s} by {e['value']:+.1f} points ({e['low']:.1f}, {e['high']:.1f}; n = {e['n']})"
        for s in order
        for e in [apart[s]]
    )
    return f"{label}: {len(apart)} of {len(effects)} vectors move it apart from {against}: {said}."


def rows(
    status: Mapping[str, str], found: Mapping[str, Mapping[str, Any]], sources: Sequence[str]
) -> pl.DataFrame:
    """A row a vector and aspect; numbers are empty where the aspect is not judged."""
    import polars as pl

    keys = ("value", "low", "high", "n")
    table = []
    for aspect, said in status.items():
        change = found[aspect]["change"] if aspect in found else {}
        for source in change or sources:
            entry = change.get(source, {})
            ok = entry.get("status") == "ok"
            numbers = {"change" if k == "value" else k: entry[k] if ok else None for k in keys}
            what = {"source": source, "aspect": aspect, "what": f"{aspect}, {source}"}
            table.append({**what, **numbers, "status": said})
    return pl.DataFrame(table, infer_schema_length=None)


def cli(params: ParamsFile = PARAMS) -> None:
    """Measure which vector brings which kind of misbehaviour, from the judged answers."""
    main(load_params(params))
