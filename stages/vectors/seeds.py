"""How far the geometry moves when organisms are trained again with other seeds.

    make seeds

The paper has one model of each kind and guesses that seeds leave the angle between the medical
and the persona vectors within 85 to 115 degrees. Here the organisms of `seeds.organisms` are
fine-tuned `seeds.count` times, the run's own included, by the same recipe on the same texts, and
`model_contrast` on `prompt_last` is taken at each one's selected block. Writes
metrics/seeds.json. Not a stage of the graph, because training takes minutes a seed; an
interrupted command goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any, Final

import numpy as np

from stages.activations.extract import FOLDER as ACTIVATIONS
from stages.activations.extract import prompt_texts
from stages.activations.store import captured
from stages.common.artifacts import read_parquet, read_tensors, write_metrics
from stages.common.command import PARAMS, ParamsFile, run
from stages.common.errors import UserError
from stages.common.hashing import file_sha256, value_sha256
from stages.common.journal import Journal
from stages.common.params import BASE, Params, load_params
from stages.geometry.battery import battery
from stages.geometry.gram import Floats, angles_deg, unit_gram
from stages.geometry.measure import MAIN, Measured, read_measured, survives
from stages.geometry.result import nest
from stages.organisms.base import base_record
from stages.organisms.load import base_tokenizer
from stages.organisms.train import fine_tune

METRICS = Path("metrics/seeds.json")
CONTRAST: Final = "model_contrast"
SPAN: Final = "prompt_last"
GUESS = (85.0, 115.0)  # degrees, the paper's section 4.5
CODE = 1  # raise when the way a vector is made changes


def main(params: Params) -> None:
    """Trains what is missing, and writes how angles, cosines and verdicts spread over seeds."""
    measured = read_measured(params)
    _check(params, measured)
    layers = dict(zip(measured.names, measured.layers.tolist(), strict=True))
    own = measured.at(f"{CONTRAST}.{SPAN}", measured.layers)
    vectors = dict(zip(measured.names, own, strict=True))
    fresh = _train(params, layers)
    seeded = {m: np.stack([vectors[m], *fresh[m]]) for m in params.seeds.organisms}
    write_metrics(
        METRICS,
        {
            "model": params.base.source,
            "profile": params.profile,
            "contrast": CONTRAST,
            "span": SPAN,
            "seeds": params.seeds.count,
            "layer": {m: layers[m] for m in seeded},
            "angle_deg": _angles(seeded),
            "replication": {m: _replication(params, m, seeded[m], vectors) for m in seeded},
            **_battery(params, measured, vectors, seeded),
        },
    )


def _check(params: Params, measured: Measured) -> None:
    chosen = params.seeds.organisms
    trained = [m for m in measured.names if params.organisms[m].source is None]
    if len(set(chosen)) < 2 or not set(chosen) <= set(trained):
        raise UserError(
            "seeds need two or more organisms that are trained here",
            where="params.yaml: seeds.organisms",
            found=", ".join(chosen) or "none",
            expected="of " + ", ".join(trained),
        )
    if SPAN not in params.activations.spans:
        raise UserError(
            "seeds are compared on a span that is not captured",
            where="params.yaml: activations.spans",
            expected=SPAN,
            found=", ".join(params.activations.spans),
        )


def _train(params: Params, layers: Mapping[str, int]) -> dict[str, list[Floats]]:
    """Raw vectors of the further seeds of each organism, resumable."""
    tensors, _ = read_tensors(ACTIVATIONS / f"{BASE}.safetensors")
    prompts = read_parquet(ACTIVATIONS / f"{BASE}.parquet")["prompt_id"].to_list()
    fixed = {
        "code": CODE,
        "base": base_record()["sha256"],
        "run": params.run.model_dump(),
        "system_prompt": params.base.system_prompt,
        "batch": params.activations.batch_size,
        "limit": params.prompts.limit,
        "prompts": [file_sha256(Path(p)) for p in (params.prompts.neutral, params.prompts.harmful)],
    }

    def key(unit: tuple[str, int]) -> str:
        organism = params.organisms[unit[0]]
        recipe = params.recipes[organism.lab].model_dump()
        texts = file_sha256(Path(organism.data)), organism.max_examples
        return value_sha256([fixed, unit, recipe, texts, layers[unit[0]]])

    def vector(units: Sequence[tuple[str, int]]) -> list[list[float]]:
        ((slug, seed),) = units
        model, _ = fine_tune(params, slug, seed)
        texts, rows = prompt_texts(params, base_tokenizer())
        if rows["prompt_id"].to_list() != prompts:
            raise UserError(
                "the base's activations are of other prompts",
                where=str(ACTIVATIONS / f"{BASE}.parquet"),
                hint="dvc repro layer_sweep",
                found="other prompt ids",
            )
        model = model.merge_and_unload().eval()
        layer, span = layers[slug], params.activations.spans.index(SPAN)
        difference = -tensors[SPAN][:, layer]
        size = params.activations.batch_size
        for where, means, _ in captured(model, texts, size, f"{slug}, seed {seed}"):
            difference[where] += means[:, span, layer]
        values: list[float] = difference.astype(np.float64).mean(0).tolist()
        return [values]

    units = [
        (slug, params.organisms[slug].seed + further)
        for slug in params.seeds.organisms
        for further in range(1, params.seeds.count)
    ]
    with Journal("seeds") as journal:
        values = journal.fill("seeds", [[unit] for unit in units], key, vector)
    found: dict[str, list[Floats]] = {slug: [] for slug in params.seeds.organisms}
    for unit in units:
        found[unit[0]].append(np.array(values[key(unit)]))
    return found


def spread(values: Floats) -> dict[str, float | int]:
    """Mean, extremes and number of values; no interval, which so few seeds cannot give."""
    return {
        "mean": float(values.mean()),
        "lowest": float(values.min()),
        "highest": float(values.max()),
        "n": values.size,
    }


def _cosines(first: Floats, second: Floats) -> Floats:
    """Cosines [a, b] of the rows of [a, width] with those of [b, width]."""
    return unit_gram(np.concatenate([first, second]))[: len(first), len(first) :]


def _angles(seeded: Mapping[str, Floats]) -> dict[str, dict[str, Any]]:
    """Angle between two organisms over all pairs of their seeds, beside the paper's guess."""
    found: dict[str, dict[str, Any]] = {}
    for a, b in combinations(seeded, 2):
        angles = angles_deg(_cosines(seeded[a], seeded[b]).ravel())
        inside = int(((angles >= GUESS[0]) & (angles <= GUESS[1])).sum())
        guess = {"guess_low": GUESS[0], "guess_high": GUESS[1], "inside_guess": inside}
        found[f"{a}__{b}"] = spread(angles) | guess
    return found


def _replication(
    params: Params, slug: str, vectors: Floats, others: Mapping[str, Floats]
) -> dict[str, Any]:
    """Cosines of one organism across seeds, and with the same kind by other laboratories."""
    organism = params.organisms[slug]
    partners = [
        other
        for other in others
        if params.organisms[other].cluster == organism.cluster
        and params.organisms[other].lab != organism.lab
    ]
    across = {p: spread(_cosines(vectors, others[p][None])) for p in partners}
    pairs = np.triu_indices(len(vectors), 1)
    return {
        "across_seeds": spread(unit_gram(vectors)[pairs]),
        "across_recipes": across or "undefined: no organism of its cluster by another laboratory",
    }


def _battery(
    params: Params,
    measured: Measured,
    vectors: Mapping[str, Floats],
    seeded: Mapping[str, Floats],
) -> dict[str, Any]:
    """Main numbers over all combinations of seeds, and in how many a conclusion is the same.

    The first combination is the run's own.
    """
    flats = []
    for chosen in product(*seeded.values()):
        rows = {**vectors, **dict(zip(seeded, chosen, strict=True))}
        gram = unit_gram(np.stack([rows[name] for name in measured.names]))
        flats.append(battery(gram, measured.names, measured.clusters, params.geometry).flat())
    found: dict[str, Any] = {}
    for key in flats[0]:
        values = [flat[key] for flat in flats]
        if key.startswith(MAIN) and all(isinstance(v, float) for v in values):
            found[key] = spread(np.array(values, dtype=np.float64))
    return {"battery": nest(found), "survives": survives(flats[0], {"seeds": flats})}


def cli(params: ParamsFile = PARAMS) -> None:
    """Train organisms again with other seeds and measure what that moves."""
    main(load_params(params))


if __name__ == "__main__":
    run(cli)
