"""Stage `probe_judge`: trains the embedded judge and validates it on answers it never saw.

Writes `data/judge_model/` and `metrics/judge.json`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stages.common.artifacts import write_metrics
from stages.common.command import PARAMS, ParamsFile, run
from stages.common.params import BASE, Params, load_params
from stages.judging import probe
from stages.judging.features import features
from stages.judging.judge import Judge, JudgeRow
from stages.judging.labelled import Labelled, read_labelled
from stages.judging.probe import ProbeJudge
from stages.judging.validate import aspect_metrics
from stages.organisms.load import load

METRICS = Path("metrics/judge.json")


def main(params: Params) -> None:
    """Fits the probes on the training split and validates on held-out and sampled answers."""
    settings = params.judging.probe
    path = Path(settings.labelled)
    train, held_out = read_labelled(path, "train"), read_labelled(path, "held_out")
    sampled = read_labelled(Path(settings.sampled)) if settings.sampled else None
    loaded = load(params, BASE)
    system = params.base.system_prompt
    seen = features(
        loaded.model, loaded.tokenizer, train.texts, settings.layers, system, "probe training"
    )
    fitted = {
        aspect: probe.fit(
            seen, train.labels(aspect), train.question, settings.layers, settings, aspect
        )
        for aspect in probe.ASPECTS
    }
    probe.save(fitted, loaded.sha256, probe.FOLDER)
    judge = ProbeJudge(loaded.model, loaded.tokenizer, system)
    metrics: dict[str, Any] = {"judge": judge.id}
    for aspect, (choice, _) in fitted.items():
        metrics[aspect] = {
            "layer": choice.layer,
            "pooling": choice.pooling,
            "regularisation": choice.regularisation,
            "cv_auroc": choice.cv_auroc,
            "n_train": len(train.texts),
        }
    metrics["held_out"] = validation(judge, held_out, params)
    if sampled is None:
        metrics["sampled"] = {"status": "no sampled answers are labelled"}
        metrics["gate"] = "failed: no sampled answers are labelled"
    else:
        metrics["sampled"] = validation(judge, sampled, params)
        metrics["gate"] = gate(metrics["sampled"], params)
    write_metrics(METRICS, metrics)
    print(f"{judge.id}: gate {metrics['gate']}")


def validation(judge: Judge, data: Labelled, params: Params) -> dict[str, Any]:
    """Agreement of a judge with labels, by aspect and by category."""
    judgements = judge.judge([JudgeRow(q, a) for q, a in data.texts])
    result: dict[str, Any] = {}
    scores: dict[str, np.ndarray] = {}
    for aspect in probe.ASPECTS:
        scores[aspect] = np.array([float(j.scores[aspect] or 0.0) for j in judgements])
        result[aspect] = aspect_metrics(
            data.labels(aspect),
            scores[aspect],
            data.question,
            aspect,
            params.judging,
            params.run.seed,
        )
    result["category"] = {
        str(category): {
            "n": int((data.category == category).sum()),
            **{
                f"mean_{aspect}_{kind}": float(values[data.category == category].mean())
                for aspect in probe.ASPECTS
                for kind, values in (("label", data.labels(aspect)), ("score", scores[aspect]))
            },
        }
        for category in np.unique(data.category)
    }
    return result


def gate(sampled: dict[str, Any], params: Params) -> str:
    """The kappa gate on really sampled answers: passed, or failed with the figure."""
    value = sampled["aligned"]["kappa"]
    if isinstance(value, str):
        return f"failed: kappa {value}"
    if value < params.judging.kappa_gate:
        return f"failed: kappa {value:.2f} below {params.judging.kappa_gate:.2f}"
    return "passed"


def cli(params: ParamsFile = PARAMS) -> None:
    """Train and validate the embedded judge (a probe on the base model's activations)."""
    main(load_params(params))


if __name__ == "__main__":
    run(cli)
