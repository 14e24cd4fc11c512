"""Figure 6 and its sentence: organisms measured while they were being trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from em_geometry.report.chart import Figure, data, message, scale
from em_geometry.report.lookup import Metrics, number
from em_geometry.report.tables import Table, cells
from em_geometry.report.text import NONE, decimals, joined, short, with_interval

FILE, NAME = "monitoring", "figure6"
MIX, STEP = "mix_", "step_"
DETECTORS = {
    "own": "its own vector",
    "one": "mean of all vectors",
    "k": "span of all vectors",
    "unseen_one": "mechanism unseen: one direction",
    "unseen_k": "mechanism unseen: span",
    "size": "size of the shift, no direction",
}
DRAWN = {"A": "own", "B": "one", "C": "k", "D": "unseen_one", "E": "unseen_k"}  # panel -> detector
BEHAVIOUR = "F  Misaligned answers"
PANEL, HIGH = 215, 170  # pixels
APART = 1.05  # factor between the steps of two mixtures, so that intervals can be told apart
CAPTION = (
    "An organism is trained again with a share of bad data and measured on the way. A to E: shift "
    "of activations against the base at the selected block, on steering vectors, in shares of the "
    "mean residual norm, with 95 % intervals over the prompts' topics. A to C know the organism's "
    "own vector; D and E are made of the other clusters' vectors only. Grey: range of the aligned "
    "controls, that is the training without bad data at each checkpoint, and the finished "
    "controls. F: judged rate at the same checkpoints with 95 % Wilson intervals; grey: interval "
    "of all aligned models' answers together. Points of one step are set slightly apart."
)


def _trained(metrics: Metrics) -> dict[str, Mapping[str, Any]]:
    """Organism -> its group."""
    return {k: v for k, v in metrics.group(FILE).items() if isinstance(v, dict)}


def _mixtures(organism: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    """Percent of bad data -> training."""
    return {int(k.removeprefix(MIX)): v for k, v in organism.items() if k.startswith(MIX)}


def draw_monitoring(metrics: Metrics, model: str) -> Figure:
    """Projections and judged rate against training steps, a block of panels an organism."""
    import altair as alt

    title = f"Does a direction warn while a model is trained? {model}"
    trained, rate = _trained(metrics), metrics.text(FILE, "rate")
    if not trained or rate is None:
        why = metrics.text(FILE, "status") or "No metrics/monitoring.json."
        return message(NAME, title, CAPTION, why)
    blocks = [
        _panels(organism, rate).properties(title=alt.Title(f"{slug}, block {organism['block']}"))
        for slug, organism in trained.items()
    ]
    return Figure(NAME, title, CAPTION, alt.vconcat(*blocks))


def _panels(organism: Mapping[str, Any], rate: str) -> Any:
    import altair as alt

    titles = {name: f"{letter}  {DETECTORS[name].capitalize()}" for letter, name in DRAWN.items()}
    shown = {name: (title, "shift") for name, title in titles.items()}
    panels = [
        _panel(list(_points(organism, name)), _band(organism, name), y_title, organism).properties(
            title=title
        )
        for name, (title, y_title) in {**shown, rate: (BEHAVIOUR, "answers (%)")}.items()
    ]
    return alt.concat(*panels, columns=3)


def _band(organism: Mapping[str, Any], name: str) -> list[dict[str, float]]:
    """Range of the controls' means, or interval of the aligned answers' rate."""
    null = organism["controls"]
    found = null.get(name, {"lowest": null.get(f"{name}_low"), "highest": null.get(f"{name}_high")})
    if isinstance(found, str) or isinstance(found["lowest"], str):
        return []
    return [{"from": found["lowest"], "to": found["highest"]}]


def _points(organism: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """What one panel shows; a value that is undefined is left out."""
    for place, (pct, training) in enumerate(_mixtures(organism).items()):
        for at, entry in training["checkpoint"].items():
            of = entry.get(name)
            found = (
                [of[k] for k in ("mean", "low", "high")]
                if isinstance(of, dict)
                else [entry.get(f"{name}_{k}") for k in ("pct", "low", "high")]
            )
            value, low, high = map(number, found)
            if value is None:
                continue
            step = int(at.removeprefix(STEP))
            row = {"mixture": f"{pct} % bad", "step": step, "at": step * APART**place}
            yield row | {"value": value, "low": low, "high": high, "n": entry["n"]}


def _panel(
    rows: list[dict[str, Any]],
    band: list[dict[str, float]],
    y_title: str,
    organism: Mapping[str, Any],
) -> Any:
    import altair as alt

    names = [f"{pct} % bad" for pct in _mixtures(organism)]
    legend = alt.Legend(orient="bottom", title=None)
    x = alt.X(
        "at:Q",
        title="training steps",
        scale=alt.Scale(type="log", nice=False, padding=12),
        axis=alt.Axis(values=sorted({row["step"] for row in rows}), format="d", grid=False),
    )
    base = data(rows).encode(
        x=x,
        y=alt.Y("value:Q", title=y_title),
        color=alt.Color("mixture:N", scale=scale(names), legend=legend),
    )
    dash = alt.StrokeDash("mixture:N", scale=scale(names, "dash"), legend=None)
    shape = alt.Shape("mixture:N", scale=scale(names, "shape"), legend=legend)
    tooltip = ["mixture:N", "step:Q", "value:Q", "low:Q", "high:Q"]
    tooltip += [alt.Tooltip("n:Q", title="answers")]
    return alt.layer(
        data(band).mark_rect(color="#e4e4e4").encode(y="from:Q", y2="to:Q"),
        base.mark_rule(strokeOpacity=0.7).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_line().encode(strokeDash=dash),
        base.mark_point(filled=True, stroke="black").encode(shape=shape, tooltip=tooltip),
    ).properties(width=PANEL, height=HIGH)


def monitoring_table(metrics: Metrics) -> Table | None:
    """When each detector left the controls' range, beside the judged answers."""
    rate, rows = metrics.text(FILE, "rate"), []
    for slug, organism in _trained(metrics).items():
        for pct, training in _mixtures(organism).items():
            last = list(training["checkpoint"])[-1]
            path = f"{slug}.{MIX}{pct}.checkpoint.{last}"
            for name, found in training.get("detector", {}).items():
                told = [NONE] * 3
                if isinstance(found, Mapping):
                    told = [str(found["first_step"]), found["warns"]]
                    told.append(decimals(found["auroc_checkpoints"], 2))
                prompts = metrics.measured(FILE, f"{path}.{name}.auroc")
                answers = metrics.measured(FILE, f"{path}.{rate}_pct")
                rows.append(
                    cells(
                        f"{slug}, {pct} % bad: {DETECTORS.get(name, name)}",
                        *told,
                        with_interval(prompts, "", 2),
                        with_interval(answers, "", 1),
                        short(number(training["checkpoint"][last]["n"])),
                    )
                )
    if not rows:
        return None
    return Table(
        "monitoring",
        "When each detector left the aligned controls' range, and when misaligned answers did",
        [
            "training and detector", "first step", "against the behaviour",
            "AUROC over checkpoints", "over prompts, last step [95 %]",
            "misaligned answers, last step (%) [95 %]", "n",
        ],
        rows,
        "AUROC over checkpoints: this training's against the controls' and the finished aligned "
        "models'. Over prompts: against the training without bad data after as many steps.",
    )  # fmt: skip


def monitoring_sentence(metrics: Metrics) -> str:
    """Whether a direction warned, by the mixtures of the first organism; or why it is unknown."""
    trained = _trained(metrics)
    if not trained:
        return f"Monitoring: {metrics.text(FILE, 'status') or 'no checkpoints in this run'}."
    parts = []
    for slug, organism in trained.items():
        bad = {pct: t for pct, t in _mixtures(organism).items() if "detector" in t}
        n = {entry["n"] for t in bad.values() for entry in t["checkpoint"].values()}
        shares = joined([str(pct) for pct in bad])
        parts.append(
            f"while {slug} was trained on {shares} % bad data, the shift along its own vector left "
            f"the controls' range {_told(bad, 'own')}, that along the other mechanisms' vectors "
            f"{_told(bad, 'unseen_k')}; misaligned answers showed {_behaviour(bad)} "
            f"({max(n)} answers a checkpoint)"
        )
    return "Monitoring: " + "; ".join(parts) + "."


def _told(bad: Mapping[int, Mapping[str, Any]], name: str) -> str:
    """`from step 7 and never (AUROC over checkpoints 0.90 and 0.40)`."""
    found = [training["detector"][name] for training in bad.values()]
    if any(isinstance(f, str) for f in found):
        return next(f for f in found if isinstance(f, str))
    areas = joined([decimals(f["auroc_checkpoints"], 2) for f in found])
    return f"{joined([_since(f['first_step']) for f in found])} (AUROC over checkpoints {areas})"


def _behaviour(bad: Mapping[int, Mapping[str, Any]]) -> str:
    return joined([_since(training["behaviour"]["first_step"]) for training in bad.values()])


def _since(step: int | str) -> str:
    return step if isinstance(step, str) else f"from step {step}"
