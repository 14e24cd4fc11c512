"""Stage `probe_judge`: trains the embedded judge, and validates every judge in use.

Writes `data/judge_model/` and `metrics/judge.json`. Judges are the probe, the active one where
that is another, and the base model behind an endpoint on loopback, so that each run takes the
way through the client.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from em_geometry.activations.blocks import check_blocks, decoder_blocks
from em_geometry.errors import UserError
from em_geometry.hashing import stream_key
from em_geometry.io.files import write_metrics
from em_geometry.judging import probe
from em_geometry.judging.features import features
from em_geometry.judging.judge import Judge
from em_geometry.judging.labelled import ASPECTS, Labelled, read_labelled
from em_geometry.judging.probe import ProbeJudge
from em_geometry.judging.score import active_judge
from em_geometry.judging.serve import base_as_endpoint
from em_geometry.judging.validation import Validation, agreement, believed, gate
from em_geometry.models.load import Loaded
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.project.inputs import models
from em_geometry.settings.params import BASE, Params, load_params

METRICS = Path("metrics/judge.json")
LOOPBACK = "loopback"
NO_SAMPLED = "no sampled answers are labelled"


def main(params: Params) -> None:
    """Fits the probes and asks every judge about answers that none was trained on."""
    settings = params.judging.probe
    aspects = params.judging.aspects
    authored = read_labelled(Path(settings.labelled), "train", aspects)
    held_out = read_labelled(Path(settings.labelled), "held_out", aspects)
    sampled, more = (
        read_labelled(Path(path), None, aspects) if path else None
        for path in (settings.sampled, settings.sampled_train)
    )
    check_apart([authored, more], [held_out, sampled])
    loaded = models(params).load(BASE)
    blocks = len(decoder_blocks(loaded.model))
    check_blocks(settings.layers, blocks, "params.yaml: judging.probe.layers")
    metrics: dict[str, Any] = {"probe": fit(loaded, authored, more, params)}
    every = held_out if sampled is None else sampled
    part = every.part(drawn(len(every.texts), params))
    raters = {"label": part.aligned}
    found: dict[str, dict[str, Any]] = {}
    for name, judge in judges(loaded, params):
        validation = Validation(judge, params)
        scores = validation.scores(part.texts)
        raters[name] = scores["aligned"]
        found[name] = {"judge": judge.id, "asked": validation.metrics(part, scores, "aligned")}
        if name != LOOPBACK:
            found[name] |= validated(validation, held_out, sampled)
    active = "active" if "active" in found else "probe"
    metrics |= found.pop(active)
    metrics["gate"] = gate(metrics["sampled"], params)
    metrics["aspects"] = {aspect: believed(metrics, aspect) for aspect in aspects}
    metrics["others"], metrics["agreement"] = found, agreement(raters, params)
    write_metrics(METRICS, metrics)
    print(f"{metrics['judge']}: gate {metrics['gate']}")
    for aspect, status in metrics["aspects"].items():
        print(f"{aspect}: {status}")
    for name in found:
        print(f"{found[name]['judge']}: kappa {found[name]['asked']['kappa']}")


def judges(loaded: Loaded, params: Params) -> Iterator[tuple[str, Judge]]:
    """Every judge in use, open while it is the current one."""
    yield "probe", ProbeJudge(loaded.model, loaded.tokenizer, params.base.system_prompt)
    if params.judging.backend != "probe":
        with active_judge(params) as judge:
            yield "active", judge
    if params.judging.loopback:
        with base_as_endpoint(loaded, params.judging) as endpoint:
            yield LOOPBACK, endpoint


def fit(
    loaded: Loaded, authored: Labelled, more: Labelled | None, params: Params
) -> dict[str, Any]:
    """Fits and saves the probes; returns what was chosen."""
    settings = params.judging.probe
    train = authored if more is None else authored.joined(more)
    # Where there are really sampled answers, they alone choose and calibrate: they are what is
    # to be judged, and authored answers are far easier.
    counted = np.arange(len(train.texts)) >= (0 if more is None else len(authored.texts))
    seen = features(
        loaded.model,
        loaded.tokenizer,
        train.texts,
        settings.layers,
        params.base.system_prompt,
        "probe training",
    )
    groups = np.array([question for question, _ in train.texts])
    fitted: dict[str, tuple[probe.Choice, probe.Linear]] = {}
    for aspect, labels in train.label.items():
        # The whole search takes minutes an aspect; the further ones read what `aligned` reads.
        like = None if aspect in ASPECTS else fitted["aligned"][0]
        fitted[aspect] = probe.fit(seen, labels, groups, counted, params.judging, aspect, like)
    probe.save(fitted, loaded.sha256, probe.FOLDER)
    counts = {"n_train": len(train.texts), "n_counted": int(counted.sum())}
    return {
        aspect: asdict(choice) | {"layers": ", ".join(map(str, choice.layers))} | counts
        for aspect, (choice, _) in fitted.items()
    }


def validated(
    validation: Validation, held_out: Labelled, sampled: Labelled | None
) -> dict[str, Any]:
    """Authored held-out answers and really sampled ones, apart."""
    return {
        "held_out": validation.on(held_out),
        "injection": validation.injection(held_out),
        "damage": validation.damage(held_out),
        "sampled": {"status": NO_SAMPLED} if sampled is None else validation.on(sampled),
    }


def drawn(n: int, params: Params) -> np.ndarray:
    """Which of n answers the endpoint on loopback is asked about."""
    key = stream_key(params.run.seed, "validation", "loopback")
    order = np.random.Generator(np.random.Philox(key=key)).permutation(n)
    return np.sort(order[: params.judging.loopback or n])


def check_apart(train: Sequence[Labelled | None], held_out: Sequence[Labelled | None]) -> None:
    """UserError when a question of the training answers is also validated on."""
    known, asked = (
        {question for data in sets if data for question, _ in data.texts}
        for sets in (train, held_out)
    )
    if known & asked:
        raise UserError(
            "the judge would be validated on questions it was trained on",
            where="params.yaml: judging.probe",
            found=sorted(known & asked)[:3],
            expected="labelled (train) and sampled_train share no question with the held-out sets",
        )


def cli(params: ParamsFile = PARAMS) -> None:
    """Train the embedded judge (a probe) and validate every judge in use."""
    main(load_params(params))
