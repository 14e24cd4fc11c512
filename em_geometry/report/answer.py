"""The report's first lines: what the numbers say, and what to be careful with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from em_geometry.report.lookup import Measured, Metrics
from em_geometry.report.monitoring import monitoring_sentence
from em_geometry.report.tables_calibration import TESTS
from em_geometry.report.text import counted, decimals, joined, short, with_interval
from em_geometry.settings.params import Params

NAMED = 6  # intervals or ratios that the first lines name; the rest is one click away
LABELS = {
    "asymmetry": "asymmetry of {source} and {target}",
    "risk_difference": "change of {target} by {source}",
    "e1": "effectiveness of {source} on {target}",
    "e2": "E2 of {source} on {target}",
    "e3": "effectiveness of {source} on {target}",
}


@dataclass(frozen=True)
class Warning:
    """Something to be careful with.

    Attributes:
        text: one sentence.
        items: what it is about, the most important first.
        shown: how many of the items the first lines name.
    """

    text: str
    items: Sequence[str] = ()
    shown: int = NAMED


def sentences(metrics: Metrics, model: str) -> list[str]:
    """Geometry, behaviour, transfer, monitoring; each sentence says what is missing."""
    return [
        _geometry(metrics, model),
        _behaviour(metrics, model),
        _transfer(metrics),
        monitoring_sentence(metrics),
    ]


def _geometry(metrics: Metrics, model: str) -> str:
    within, across = (
        metrics.measured("geometry", f"similarity.{kind}_mean") for kind in ("within", "cross")
    )
    count = metrics.measured("geometry", "verdict.count").value
    if within.value is None or across.value is None or count is None:
        return "Geometry: no battery in this run."
    text = (
        f"Geometry: on {model} the steering vectors have a mean cosine of "
        f"{decimals(within.value, 2)} within the paper's clusters and "
        f"{decimals(across.value, 2)} across them, and by the paper's own thresholds "
        f"{decimals(count, 0)} of its 5 tests read as independent directions"
    )
    told = [metrics.text("calibration", f"power.{test}.verdict_paper") for test in TESTS]
    if not any(told):
        return text + "; whether these tests can tell the hypotheses apart is not calibrated here."
    able = sum(verdict == "discriminates" for verdict in told)
    return f"{text}; {able} of the 5 can tell those from a common core that such clusters can hold."


def _behaviour(metrics: Metrics, model: str) -> str:
    above, total = (
        metrics.measured("baseline", key).value for key in ("organisms_above_controls", "organisms")
    )
    if above is None or total is None:
        return "Behaviour: no unsteered rates in this run."
    base = with_interval(metrics.measured("baseline", "base.em_betley_pct"), " %", 0)
    text = (
        f"Behaviour: {decimals(above, 0)} of {decimals(total, 0)} fine-tuned organisms give "
        f"misaligned answers to unrelated questions more often than the base ({base}) and every "
        "control, beyond their intervals"
    )
    rates = {
        slug: metrics.measured("baseline", f"{slug}.em_betley_pct")
        for slug, found in metrics.group("baseline").items()
        if isinstance(found, dict) and "above_controls" in found
    }
    known = {slug: m for slug, m in rates.items() if m.value is not None}
    if not known:
        return text + "."
    low, high = (f(known, key=lambda s: known[s].value or 0.0) for f in (min, max))
    return (
        f"{text}; their rates go from {with_interval(known[low], ' %', 0)} ({low}) to "
        f"{with_interval(known[high], ' %', 0)} ({high})."
    )


def _transfer(metrics: Metrics) -> str:
    cross = [
        metrics.measured("transfer", f"risk_difference.{key}")
        for key in metrics.group("transfer", "risk_difference")
        if len(set(key.split("__"))) == 2
    ]
    if not cross:
        return "Transfer: no steered answers in this run."
    raised = sum(m.low is not None and m.low > 0 for m in cross)
    lowered = sum(m.high is not None and m.high < 0 for m in cross)
    text = (
        f"Transfer: in {raised} of {len(cross)} pairs of a vector and another model the share of "
        f"misaligned answers rises beyond its interval, in {lowered} it falls"
    )
    control = metrics.measured("transfer", "control.random_0")
    if control.value is not None:
        text += f" (a random direction: {with_interval(control, ' points', 1)})"
    return text + _direction(metrics) + "."


def _direction(metrics: Metrics) -> str:
    """The laboratories with the largest difference between the two directions."""
    found = {
        key: metrics.measured("transfer", f"asymmetry.{key}")
        for key in metrics.group("transfer", "asymmetry")
    }
    known = {key: m for key, m in found.items() if m.value is not None}
    if not known:
        return ""
    key = max(known, key=lambda k: known[k].value or 0.0)
    there, back = key.split("__")
    p = metrics.measured("transfer", f"asymmetry.{key}.p").value
    chance = "" if p is None else f", permutation p = {decimals(p, 2)}"
    return (
        f"; the largest asymmetry is {there} to {back}, "
        f"{with_interval(known[key], ' points', 1)} more than the reverse{chance}"
    )


def warnings(params: Params, metrics: Metrics, model: str) -> list[Warning]:
    """What a reader must know before any number, the most serious first."""
    found = []
    gate = metrics.text("judge", "gate")
    if gate is None:
        found.append(Warning("The judge has not been validated in this run."))
    elif gate != "passed":
        found.append(
            Warning(
                f"The judge has not passed its gate (kappa of at least "
                f"{params.judging.kappa_gate:g} on sampled answers; {gate}), so every rate, "
                "change and effectiveness below carries that doubt."
            )
        )
    found += [*_silent(metrics), *_weak(metrics)]
    every = list(_intervals(params, metrics))
    wide = [
        f"{label} ({decimals(m.width, 0)} points)"
        for label, m in every
        if m.width is not None and m.width > params.report.wide_interval
    ]
    if wide:
        text = (
            f"{len(wide)} of {counted(len(every), 'number')} have an interval wider than "
            f"{params.report.wide_interval:g} percentage points and say little"
        )
        found.append(Warning(text, wide))
    undefined = [label for label, m in every if m.value is None]
    if undefined:
        verb = "is" if len(undefined) == 1 else "are"
        text = f"{counted(len(undefined), 'ratio or rate')} {verb} undefined"
        if len(undefined) > 1:
            text = text.replace("ratio or rates", "ratios or rates")
        found.append(Warning(text, undefined))
    found.append(
        Warning(
            f"This is a measurement of {model}; agreement or disagreement with the paper's "
            "numbers, which are of Llama-3.1-8B-Instruct, tests the method and not that model."
        )
        if "llama" not in model.lower()
        else Warning(f"Measured on {model}.")
    )
    return found


def _silent(metrics: Metrics) -> list[Warning]:
    """Organisms whose training did not show in unrelated answers."""
    quiet = [
        slug
        for slug, entry in metrics.group("baseline").items()
        if isinstance(entry, dict) and entry.get("above_controls", "yes") != "yes"
    ]
    text = "No broad misalignment is shown (the interval is not above base and controls) for"
    return [Warning(text, quiet, len(quiet))] if quiet else []


def _weak(metrics: Metrics) -> list[Warning]:
    """Vectors that do no more to held-out questions than a random direction."""
    contrast = metrics.text("layer_sweep", "contrast")
    beyond = metrics.measured("layer_sweep", f"efficacy.{contrast}.beyond_random")
    if beyond.value is None or (beyond.low is not None and beyond.low > 0):
        return []
    return [
        Warning(
            "On held-out questions the vectors do not move the base towards misaligned reference "
            f"answers further than a random direction ({with_interval(beyond, ' nats', 2)} "
            f"beyond it, n = {short(beyond.n)}), so how they lie to each other need not be how "
            "misalignment lies."
        )
    ]


def _intervals(params: Params, metrics: Metrics) -> Iterator[tuple[str, Measured]]:
    """Every number with an interval, by name; named pairs and groups first."""
    named = metrics.group("transfer", "named_pair")
    for path in ("named_pair", "lab_pair"):
        for key in metrics.group("transfer", path):
            for kind in ("e1", "risk_difference"):
                yield _label(kind, key), metrics.measured("transfer", f"{path}.{key}.{kind}")
    for kind in ("asymmetry", "risk_difference", *(f"effectiveness.e{i}" for i in (1, 3, 2))):
        for key in metrics.group("transfer", kind):
            if key not in named or kind == "effectiveness.e2":
                yield _label(kind, key), metrics.measured("transfer", f"{kind}.{key}")
    for target in params.targets:
        if metrics.group("baseline", target):
            measured = metrics.measured("baseline", f"{target}.em_betley_pct")
            yield f"unsteered rate of {target}", measured


def _label(kind: str, key: str) -> str:
    source, target = key.split("__")
    return LABELS[kind.rpartition(".")[2]].format(source=source, target=target)


def first_items(warning: Warning) -> str:
    """The items that the first lines name, with the number of the others."""
    shown = list(warning.items[: warning.shown])
    rest = len(warning.items) - len(shown)
    return "; ".join(shown) + (f"; and {rest} more" if rest else "") if rest else joined(shown)
