"""How far the geometry moves when organisms are trained again with other seeds.

    make seeds

The paper guesses that seeds leave its angle within 85 to 115 degrees. `seeds.organisms` are
trained `seeds.count` times; `model_contrast` on `prompt_last` is taken at their blocks. What seeds,
text and recipe move goes to metrics/seeds.json. Takes minutes; an interrupted run goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any, Final

import numpy as np

from em_geometry.activations.capture import captured
from em_geometry.activations.prompts import read_prompts
from em_geometry.activations.store import prompt_texts
from em_geometry.errors import UserError
from em_geometry.geometry.battery import battery
from em_geometry.geometry.gram import Floats, angles_deg, unit_gram
from em_geometry.geometry.measure import MAIN, Measured, read_measured, survives
from em_geometry.hashing import file_sha256, value_sha256
from em_geometry.io.files import nest, read_parquet, read_tensors, write_metrics
from em_geometry.io.journal import Journal
from em_geometry.models.train import fine_tune
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.project.inputs import models
from em_geometry.project.paths import ACTIVATIONS
from em_geometry.settings.params import BASE, Params, load_params
from em_geometry.vectors.components import between, crossed
from em_geometry.vectors.contrasts import prompt_contrast
from em_geometry.vectors.similarity import cosine

METRICS = Path("metrics/seeds.json")
CONTRAST: Final = "model_contrast"
SPAN: Final = "prompt_last"
GUESS = (85.0, 115.0)  # degrees, the paper's section 4.5
HEADLINES = ("similarity.within_mean", "similarity.cross_mean", "verdict.count")
CODE = 2  # raise when the way a vector is made changes


def main(params: Params) -> None:
    """Trains what is missing, and writes how angles, cosines and verdicts spread over seeds."""
    measured = read_measured(params)
    _check(params, measured)
    layers = dict(zip(measured.names, measured.layers.tolist(), strict=True))
    own = measured.at(f"{CONTRAST}.{SPAN}", measured.layers)
    vectors = dict(zip(measured.names, own, strict=True))
    likeness = {m: _base_likeness(_activations(m)[:, layers[m]], layers[m]) for m in measured.names}
    fresh = _train(params, layers)
    seeded = {
        m: np.stack([vectors[m], *(np.array(f["vector"]) for f in fresh[m])])
        for m in params.seeds.organisms
    }
    similar = {
        m: np.array([likeness[m], *(f["base_similarity"] for f in fresh[m])]) for m in seeded
    }
    spreads, conclusions, grids = _battery(params, measured, vectors, seeded)
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
            "battery": nest(spreads),
            "survives": conclusions,
            "base_similarity": {m: spread(values) for m, values in similar.items()},
            "components": {
                "angle_deg": {
                    f"{a}__{b}": crossed(angles_deg(_cosines(seeded[a], seeded[b])), (a, b))
                    for a, b in combinations(seeded, 2)
                },
                **{
                    key.replace(".", "_"): crossed(grid, list(seeded))
                    for key, grid in grids.items()
                },
                "base_similarity": {m: crossed(v, [m]) for m, v in similar.items()},
                "kinds": _kinds(params, vectors, seeded, likeness, similar),
            },
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


def _activations(slug: str) -> np.ndarray:
    """Activations [prompts, blocks, width] of a target on `SPAN`."""
    found: np.ndarray = read_tensors(ACTIVATIONS / f"{slug}.safetensors")[0][SPAN]
    return found


def _base_likeness(activations: np.ndarray, layer: int) -> float:
    """Cosine of contrast (a) with the base's at a block, of [prompts, width] taken there."""
    prompts = read_parquet(ACTIVATIONS / f"{BASE}.parquet")
    harmful = (prompts["kind"] == "harmful").to_numpy()
    own, base = (
        prompt_contrast(a.astype(np.float64), harmful)
        for a in (activations, _activations(BASE)[:, layer])
    )
    return float(cosine(own, base))


def _train(params: Params, layers: Mapping[str, int]) -> dict[str, list[dict[str, Any]]]:
    """Raw vector and similarity to the base of the further seeds of each organism, resumable."""
    base = _activations(BASE)
    prompts = read_parquet(ACTIVATIONS / f"{BASE}.parquet")["prompt_id"].to_list()
    fixed = {
        "code": CODE,
        "base": models(params).record()["sha256"],
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

    def measure(units: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
        ((slug, seed),) = units
        model, _ = fine_tune(models(params), slug, params.recipes[params.organisms[slug].lab], seed)
        known, every = models(params), read_prompts(params.prompts)
        spans = params.activations.spans
        texts, rows = prompt_texts(every, spans, known.tokenizer(), known.system_prompt)
        if rows["prompt_id"].to_list() != prompts:
            raise UserError(
                "the base's activations are of other prompts",
                where=str(ACTIVATIONS / f"{BASE}.parquet"),
                hint="dvc repro layer_sweep",
                found="other prompt ids",
            )
        model = model.merge_and_unload().eval()
        layer, span = layers[slug], params.activations.spans.index(SPAN)
        own = np.empty_like(base[:, layer])
        size = params.activations.batch_size
        for where, means, _ in captured(model, texts, size, f"{slug}, seed {seed}"):
            own[where] = means[:, span, layer]
        vector: list[float] = (own - base[:, layer]).astype(np.float64).mean(0).tolist()
        return [{"vector": vector, "base_similarity": _base_likeness(own, layer)}]

    units = [
        (slug, params.organisms[slug].seed + further)
        for slug in params.seeds.organisms
        for further in range(1, params.seeds.count)
    ]
    with Journal("seeds") as journal:
        values = journal.fill("seeds", [[unit] for unit in units], key, measure)
    found: dict[str, list[dict[str, Any]]] = {slug: [] for slug in params.seeds.organisms}
    for unit in units:
        found[unit[0]].append(values[key(unit)])
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


def _kinds(
    params: Params,
    vectors: Mapping[str, Floats],
    seeded: Mapping[str, Floats],
    likeness: Mapping[str, float],
    similar: Mapping[str, Floats],
) -> dict[str, Any]:
    """What text and recipe add to seeds, from organisms of one cluster.

    Two that share the recipe differ in text, two that share the text in recipe; two that share
    neither say how much both add together, and no number of seeds splits that.
    """
    found: dict[str, Any] = {"text": {}, "recipe": {}, "text_and_recipe": {}}
    for a in seeded:
        for b in vectors:
            one, other = params.organisms[a], params.organisms[b]
            if one.cluster != other.cluster or a == b or (b in seeded and b < a):
                continue
            same_text, same_recipe = one.data == other.data, one.lab == other.lab
            kind = "recipe" if same_text else "text" if same_recipe else "text_and_recipe"
            second = seeded.get(b, vectors[b][None])
            entry: dict[str, Any] = {
                "base_similarity": between(similar[a], similar.get(b, np.array([likeness[b]])))
            }
            for partner in (m for m in seeded if params.organisms[m].cluster != one.cluster):
                angles = [
                    angles_deg(_cosines(x, seeded[partner])).mean(1) for x in (seeded[a], second)
                ]
                entry[f"angle_deg_{partner}"] = between(*angles)
            found[kind][f"{a}__{b}"] = entry
    missing = (
        "not identified: no two organisms of a cluster, one of them seeded, differ in it alone"
    )
    return {kind: entries or missing for kind, entries in found.items()}


def _battery(
    params: Params,
    measured: Measured,
    vectors: Mapping[str, Floats],
    seeded: Mapping[str, Floats],
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Floats]]:
    """Main numbers over all combinations of seeds, and in how many a conclusion is the same.

    The first combination is the run's own. Third: the headline numbers [s1, ..., sk], an axis an
    organism.
    """
    flats = []
    for chosen in product(*seeded.values()):
        rows = {**vectors, **dict(zip(seeded, chosen, strict=True))}
        gram = unit_gram(np.stack([rows[name] for name in measured.names]))
        flats.append(battery(gram, measured.names, measured.clusters, params.geometry).flat())
    spreads: dict[str, Any] = {}
    grids: dict[str, Floats] = {}
    shape = [len(each) for each in seeded.values()]
    for key in flats[0]:
        values = [flat[key] for flat in flats]
        if not key.startswith(MAIN) or any(isinstance(v, str) for v in values):
            continue
        if key != "clusters.silhouette_k":
            spreads[key] = spread(np.array(values, dtype=np.float64))
        if key in HEADLINES:
            grids[key] = np.array(values, dtype=np.float64).reshape(shape)
    return spreads, survives(flats[0], {"seeds": flats}), grids


def cli(params: ParamsFile = PARAMS) -> None:
    """Train organisms again with other seeds and measure what that moves."""
    main(load_params(params))
